//! The client port: IPv4 and IPv6 at once unless an address is given.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use oxkeeper_config::{Config, bind_address};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::error::ServerError;
use crate::flow::FILES_KEPT;

/// What Java asks the system for if nothing is configured.
const BACKLOG: i32 = 50;

/// Binds the client port.
pub(crate) fn bind(config: &Config) -> Result<TcpListener, ServerError> {
    let name = bind_address(config);
    let address = format!("{name} port {}", config.client_port);
    let failed = |source| ServerError::Listen { address: address.clone(), source };
    let mut resolved = (name.as_str(), config.client_port).to_socket_addrs().map_err(failed)?;
    let first = resolved.next().ok_or_else(|| failed(io::ErrorKind::AddrNotAvailable.into()))?;
    let backlog = if config.listen_backlog == -1 { BACKLOG.max(1024) } else { config.listen_backlog };
    match open(first, backlog) {
        // A host without IPv6 still has all its IPv4 addresses.
        Err(_) if first.ip() == IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED) => {
            let v4 = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), config.client_port);
            open(v4, backlog).map_err(failed)
        }
        opened => opened.map_err(failed),
    }
}

fn open(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    TcpListener::from_std(socket.into())
}

/// Raises the limit on open files to what the system allows.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!("The limit on open files stays at {:?}: {error}", limit.current);
        }
    }
}

/// How many connections there is room for among the open files that the system grants.
pub(crate) fn connections_room() -> usize {
    use rustix::process::{Resource, getrlimit};
    room_in(getrlimit(Resource::Nofile).current)
}

fn room_in(open_files_max: Option<u64>) -> usize {
    let most = open_files_max.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    most - FILES_KEPT.min(most / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_to_files() {
        assert_eq!(room_in(Some(20_000)), 20_000 - FILES_KEPT);
        assert_eq!(room_in(Some(100)), 50);
        assert_eq!(room_in(Some(1)), 1);
        assert!(room_in(None) > 1 << 30);
    }
}

//! The texts of four-letter words that need nothing but data.

use std::fmt::Write;

use oxkeeper_config::Config;
use oxkeeper_node::Status;

use crate::memory::MemoryGauge;
use crate::utc::Utc;

/// The newest ZooKeeper whose behaviour this is, then our own version.
const SPEAKS: &str = "3.9.5";
/// When the source of this version was finished, in Java's form.
const BUILT: &str = "2026-11-24 00:00 UTC";

/// The version line: exporters and clients parse the number at its start, and the date.
pub(crate) fn version() -> String {
    format!("{SPEAKS}-oxkeeper-{}, built on {BUILT}", env!("CARGO_PKG_VERSION"))
}

/// An average with up to four decimals, as Java rounds it.
pub(crate) fn average(sum: u64, count: u64) -> String {
    if count == 0 {
        return "0.0".to_owned();
    }
    let text = format!("{:.4}", sum as f64 / count as f64);
    if let Some(digit @ '1'..='9') = text.strip_prefix("0.000").and_then(|rest| rest.chars().next()) {
        return format!("{digit}.0E-4");
    }
    let text = text.trim_end_matches('0');
    if text.ends_with('.') { format!("{text}0") } else { text.to_owned() }
}

pub(crate) fn configuration(config: &Config, (data_size, log_size): (u64, u64)) -> String {
    let dir = |dir: &std::path::Path| std::path::absolute(dir).unwrap_or(dir.to_owned()).join("version-2");
    format!(
        "clientPort={}\nsecureClientPort=-1\ndataDir={}\ndataDirSize={data_size}\ndataLogDir={}\ndataLogSize={log_size}\n\
         tickTime={}\nmaxClientCnxns={}\nminSessionTimeout={}\nmaxSessionTimeout={}\nclientPortListenBacklog={}\nserverId=0\n",
        config.client_port,
        dir(&config.data_dir).display(),
        dir(&config.data_log_dir).display(),
        config.tick.as_millis(),
        config.connections_per_address_max,
        config.session_timeout_min.as_millis(),
        config.session_timeout_max.as_millis(),
        config.listen_backlog,
    )
}

pub(crate) fn environment() -> String {
    let uname = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let here = std::env::current_dir().unwrap_or_default();
    let lines = [
        ("zookeeper.version", version()),
        ("host.name", text(uname.nodename())),
        ("java.version", "none".to_owned()),
        ("java.vendor", "Oxkeeper".to_owned()),
        ("os.name", text(uname.sysname())),
        ("os.arch", text(uname.machine())),
        ("os.version", text(uname.release())),
        ("user.name", variable("USER")),
        ("user.home", variable("HOME")),
        ("user.dir", here.display().to_string()),
    ];
    lines.into_iter().fold("Environment:\n".to_owned(), |out, (key, value)| out + &format!("{key}={value}\n"))
}

/// What needs no registry of metrics; the rest comes with one.
pub(crate) fn monitor(status: &Status, connections: usize, memory: &MemoryGauge) -> String {
    let counts = &status.counts;
    let (response_last, response_min, response_max) = status.response_sizes;
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count());
    let files_max = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(0);
    let lines: [(&str, String); 22] = [
        ("version", version()),
        ("server_state", "standalone".to_owned()),
        ("avg_latency", average(counts.latency_sum_ms, counts.answered)),
        ("max_latency", counts.latency_max_ms.to_string()),
        ("min_latency", counts.latency_min_ms.to_string()),
        ("packets_received", counts.received.to_string()),
        ("packets_sent", counts.sent.to_string()),
        ("num_alive_connections", connections.to_string()),
        ("outstanding_requests", status.outstanding.to_string()),
        ("znode_count", (status.znodes + 1).to_string()),
        ("watch_count", status.watches.to_string()),
        ("ephemerals_count", status.ephemerals.to_string()),
        ("approximate_data_size", status.approximate_bytes.to_string()),
        ("global_sessions", status.sessions.to_string()),
        ("local_sessions", "0".to_owned()),
        ("open_file_descriptor_count", files.to_string()),
        ("max_file_descriptor_count", files_max.to_string()),
        ("last_client_response_size", response_last.to_string()),
        ("min_client_response_size", response_min.to_string()),
        ("max_client_response_size", response_max.to_string()),
        ("auth_failed_count", status.auth_failed.to_string()),
        ("stale_sessions_expired", status.sessions_expired.to_string()),
    ];
    let mut out =
        lines.into_iter().fold(String::new(), |out, (key, value)| out + &format!("zk_{key}\t{value}\n"));
    let _ = writeln!(out, "zk_uptime\t{}", status.uptime.as_millis());
    // What no Java server prints.
    let ours = [
        ("resident_memory_bytes", memory.resident()),
        ("memory_limit_bytes", memory.limit().unwrap_or(0)),
        ("growth_refused", u64::from(status.scarcity.refuses_growth())),
    ];
    for (key, value) in ours {
        let _ = writeln!(out, "zk_oxkeeper_{key}\t{value}");
    }
    out
}

/// A time as Java's `Date` prints it, in UTC: `Sun Nov 22 16:33:28 UTC 2026`.
pub(crate) fn date(wall_ms: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Utc { year, month, day, weekday, hour, minute, second, .. } = Utc::from_ms(wall_ms);
    let name = |names: &[&'static str], at: i64| {
        usize::try_from(at).ok().and_then(|at| names.get(at).copied()).unwrap_or_default()
    };
    format!(
        "{} {} {day:02} {hour:02}:{minute:02}:{second:02} UTC {year}",
        name(&DAYS, weekday),
        name(&MONTHS, month - 1)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_javas() {
        assert_eq!(date(1_795_365_208_000), "Sun Nov 22 16:33:28 UTC 2026");
        assert_eq!(date(0), "Thu Jan 01 00:00:00 UTC 1970");
        assert_eq!(date(951_782_400_000), "Tue Feb 29 00:00:00 UTC 2000");
    }

    #[test]
    fn averages_have_up_to_four_decimals() {
        assert_eq!(average(0, 0), "0.0");
        assert_eq!(average(84, 145), "0.5793");
        assert_eq!(average(4, 2), "2.0");
        assert_eq!((average(1, 2000), average(1, 100_000)), ("5.0E-4".to_owned(), "0.0".to_owned()));
    }
}

//! wip
#[derive(Debug)]
pub enum Event {
    Net(crate::network::NetEvent),
}

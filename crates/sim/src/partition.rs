//! The shapes in which a network falls apart. Most bugs need no more than two halves; some need a server that both halves
//! still hear, or a ring in which everybody hears two others.

use crate::chance::Chance;
use crate::network::Host;

/// Who does not hear whom.
#[derive(Debug)]
pub struct Split {
    hosts: Vec<Host>,
    shape: Shape,
    one_way: bool,
}

#[derive(Debug)]
enum Shape {
    /// Each host is in one of two or three parts.
    Parts(Vec<u64>),
    /// One host alone hears nobody.
    Alone(usize),
    /// Two parts, and one server that both hear.
    Bridge(Vec<u64>, usize),
    /// Every server hears its two neighbours, and every client hears everybody.
    Ring(usize),
}

impl Split {
    /// One of the shapes.
    pub fn draw(servers: usize, clients: usize, chance: &mut Chance) -> Split {
        let hosts: Vec<Host> = (0..servers).map(Host::Server).chain((0..clients).map(Host::Client)).collect();
        let parts = |count: u64, chance: &mut Chance| hosts.iter().map(|_| chance.below(count)).collect();
        let shape = match chance.below(8) {
            0 => Shape::Parts(parts(3, chance)),
            1 => Shape::Alone(chance.index(servers)),
            2 => Shape::Bridge(parts(2, chance), chance.index(servers)),
            3 if servers > 3 => Shape::Ring(servers),
            _ => Shape::Parts(parts(2, chance)),
        };
        let one_way = chance.happens(0.3);
        Split { hosts, shape, one_way }
    }

    /// Whom what each host says does not reach.
    pub fn blocked(&self) -> impl Iterator<Item = (Host, Host)> {
        let hosts = || self.hosts.iter().copied().enumerate();
        let pairs = hosts().flat_map(move |from| hosts().map(move |to| (from, to)));
        pairs.filter_map(|((a, from), (b, to))| {
            let is_blocked = self.parts(a, b) && !(self.one_way && self.is_spared(a, b));
            is_blocked.then_some((from, to))
        })
    }

    /// Whether two hosts are apart.
    fn parts(&self, a: usize, b: usize) -> bool {
        match &self.shape {
            Shape::Parts(parts) => parts.get(a) != parts.get(b),
            Shape::Alone(alone) => a != b && (a == *alone || b == *alone),
            Shape::Bridge(parts, bridge) => parts.get(a) != parts.get(b) && a != *bridge && b != *bridge,
            Shape::Ring(servers) => {
                let distance = a.abs_diff(b);
                a < *servers && b < *servers && distance > 1 && distance + 1 != *servers
            }
        }
    }

    /// Where a split is in one direction: whether this is the other one.
    fn is_spared(&self, from: usize, to: usize) -> bool {
        match &self.shape {
            Shape::Parts(parts) | Shape::Bridge(parts, _) => parts.get(from) > parts.get(to),
            Shape::Alone(alone) => to == *alone,
            Shape::Ring(_) => from > to,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocked(servers: usize, shape: Shape, one_way: bool) -> Vec<(usize, usize)> {
        let hosts = (0..servers).map(Host::Server).collect();
        let index = |host| match host {
            Host::Server(index) | Host::Client(index) => index,
        };
        Split { hosts, shape, one_way }.blocked().map(|(from, to)| (index(from), index(to))).collect()
    }

    #[test]
    fn every_shape_is_what_it_is_called() {
        let halves = || vec![0, 0, 1, 1];
        assert_eq!(blocked(3, Shape::Alone(1), false), [(0, 1), (1, 0), (1, 2), (2, 1)]);
        assert_eq!(blocked(3, Shape::Alone(1), true), [(1, 0), (1, 2)], "it hears and is not heard");
        assert_eq!(blocked(4, Shape::Parts(halves()), true), [(0, 2), (0, 3), (1, 2), (1, 3)]);
        assert_eq!(blocked(4, Shape::Parts(halves()), false).len(), 8);
        assert_eq!(blocked(4, Shape::Bridge(halves(), 1), false), [(0, 2), (0, 3), (2, 0), (3, 0)]);
        assert_eq!(blocked(5, Shape::Ring(5), false).len(), 10);
        assert!(blocked(5, Shape::Ring(5), false).iter().all(|(a, b)| !matches!(a.abs_diff(*b), 1 | 4)));
    }

    #[test]
    fn all_shapes_are_drawn() {
        let mut chance = Chance::new(1);
        let drawn: Vec<Split> = (0..200).map(|_| Split::draw(5, 2, &mut chance)).collect();
        let count = |is: fn(&Shape) -> bool| drawn.iter().filter(|split| is(&split.shape)).count();
        assert!(count(|shape| matches!(shape, Shape::Alone(_))) > 5);
        assert!(count(|shape| matches!(shape, Shape::Bridge(..))) > 5);
        assert!(count(|shape| matches!(shape, Shape::Ring(_))) > 5);
        assert!(count(|shape| matches!(shape, Shape::Parts(parts) if parts.contains(&2))) > 5);
    }
}

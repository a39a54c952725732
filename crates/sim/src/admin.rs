//! An administrator: it reads who belongs to the ensemble, and has servers join, leave and change their part.

use oxkeeper_proto::{Reader, Reconfig, Reply, Request, path};

use crate::chance::Chance;
use crate::groups;
use crate::history::Told;
use crate::roster::Roster;

/// The right side of the line of a server, by its number.
#[must_use]
pub fn line(number: usize, role: &str) -> String {
    format!("s{number}:2888:3888:{role};s{number}:2181")
}

/// What an administrator knows.
#[derive(Debug, Default)]
pub struct Admin {
    servers: usize,
    /// Whether it makes groups.
    groups: bool,
    known: Option<Roster>,
    /// Versions that were in force before.
    older: Vec<i64>,
}

/// What the administrator asks next.
#[derive(Debug)]
pub enum Asks {
    /// The configuration.
    Look,
    /// Another one.
    Change(Reconfig<'static>),
}

impl Admin {
    /// One who has so many servers to choose from, and makes groups of them or does not.
    #[must_use]
    pub fn of(servers: usize, groups: bool) -> Admin {
        Admin { servers, groups, ..Admin::default() }
    }

    /// Draws what to ask.
    pub fn draw(&mut self, chance: &mut Chance) -> Asks {
        let Some(known) = self.known.as_ref().filter(|_| !chance.happens(0.2)) else { return Asks::Look };
        let from_config = match chance.below(10) {
            0..5 => -1,
            5..9 => known.version,
            _ => self.older.last().copied().unwrap_or(7),
        };
        if self.groups && chance.happens(if known.groups.is_some() { 0.9 } else { 0.5 }) {
            let members = self.grouped(known, chance);
            let from_config = if chance.happens(0.5) { -1 } else { from_config };
            let new_members = Some(members.into());
            return Asks::Change(Reconfig { joining: None, leaving: None, new_members, from_config });
        }
        if chance.happens(0.25) {
            let members = self.full(chance);
            return Asks::Change(Reconfig {
                joining: None,
                leaving: None,
                new_members: Some(members.into()),
                from_config,
            });
        }
        let (mut joining, mut leaving) = (Vec::new(), Vec::new());
        let most = if chance.happens(0.6) { 1 } else { 3 };
        for _ in 0..1 + chance.index(most) {
            let number = 1 + chance.index(self.servers);
            let id = i64::try_from(number).unwrap_or(0);
            let voters = known.voters();
            let role = match known.lines.get(&id) {
                None => role(chance),
                Some(_) if voters.contains(&id) && (voters.len() < 3 || chance.happens(0.3)) => "observer",
                Some(_) if !voters.contains(&id) && chance.happens(0.6) => "participant",
                Some(_) => {
                    leaving.push(number.to_string());
                    continue;
                }
            };
            // A line of another server's address, now and then.
            let host = if chance.happens(0.03) { 1 + chance.index(self.servers) } else { number };
            joining.push(format!("server.{number}={}", line(host, role)));
        }
        if chance.happens(0.03) {
            // Nobody is there, and nobody need be.
            joining.push(format!("server.9={}", line(9, "observer")));
        }
        let list = |list: Vec<String>| (!list.is_empty()).then(|| list.join(",").into());
        Asks::Change(Reconfig {
            joining: list(joining),
            leaving: list(leaving),
            new_members: None,
            from_config,
        })
    }

    /// A whole membership.
    fn full(&self, chance: &mut Chance) -> String {
        let mut some = Vec::new();
        for number in 1..=self.servers {
            let role = if chance.happens(0.8) { "participant" } else { "observer" };
            if chance.happens(0.7) {
                some.push(format!("server.{number}={}", line(number, role)));
            }
        }
        some.join(if chance.happens(0.5) { "," } else { "\n" })
    }

    /// A whole membership in groups: the members that there are, or others; now and then with one who votes and is in no
    /// group.
    fn grouped(&self, known: &Roster, chance: &mut Chance) -> String {
        let stay = chance.happens(0.4);
        let (mut lines, mut voters) = (Vec::new(), Vec::new());
        for number in 1..=self.servers {
            let id = i64::try_from(number).unwrap_or(0);
            let is_member = if stay { known.lines.contains_key(&id) } else { chance.happens(0.8) };
            let votes = if stay { known.voters().contains(&id) } else { chance.happens(0.8) };
            if is_member {
                lines.push(format!("server.{number}={}", line(number, role_of(votes))));
                voters.extend(votes.then_some(number));
            }
        }
        if chance.happens(0.05) {
            voters.pop();
        }
        lines.extend(groups::draw(&voters, chance));
        lines.join(if chance.happens(0.5) { "," } else { "\n" })
    }

    /// The members were read, or changed.
    pub fn learned(&mut self, request: &Request<'_>, told: &Told) {
        if !told.err.is_ok() {
            self.known = self.known.take().filter(|_| !matches!(request, Request::Reconfig(_)));
            return;
        }
        let shows = match request {
            Request::Reconfig(_) => true,
            Request::GetData { path, .. } => *path == path::CONFIG,
            _ => false,
        };
        let reply = Reply::decode(request.op(), &mut Reader::new(&told.body));
        let Ok(Reply::Data(Some(text), _)) = reply else { return };
        let Some(new) = std::str::from_utf8(text).ok().and_then(Roster::parse).filter(|_| shows) else {
            return;
        };
        if let Some(old) = self.known.replace(new) {
            self.older.push(old.version);
        }
    }
}

fn role(chance: &mut Chance) -> &'static str {
    role_of(chance.happens(0.6))
}

fn role_of(votes: bool) -> &'static str {
    if votes { "participant" } else { "observer" }
}

//! The members of an ensemble as lines of text, and what a reconfiguration makes of them. Written from the protocol's
//! description; it shares nothing with the real code.

use std::collections::{BTreeMap, BTreeSet};

use oxkeeper_proto::{ErrorCode, Reconfig};

/// The members of an ensemble, as `/zookeeper/config` shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// By id, what stands right of the `=`, in its canonical form.
    pub lines: BTreeMap<i64, String>,
    /// By voter, its group and its weight; `None` where a majority decides.
    pub groups: Option<BTreeMap<i64, (i64, i64)>>,
    /// The transaction that made it, or the start of the first epoch.
    pub version: i64,
}

/// A reconfiguration that leaves fewer voters is refused.
const VOTERS_MIN: usize = 2;

impl Roster {
    /// Reads a text; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Roster> {
        let mut roster = Roster { lines: BTreeMap::new(), groups: None, version: 0 };
        let (mut groups, mut weights) = (BTreeMap::new(), BTreeMap::new());
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (key, value) = line.split_once('=')?;
            if key == "version" {
                roster.version = i64::from_str_radix(value, 16).ok()?;
            } else if let Some(group) = key.strip_prefix("group.") {
                for id in value.split(':') {
                    // One server in two groups makes no sense.
                    if groups.insert(number(id)?, number(group)?).is_some() {
                        return None;
                    }
                }
            } else if let Some(id) = key.strip_prefix("weight.") {
                weights.insert(number(id)?, number(value)?);
            } else {
                roster.lines.insert(id_of(key)?, canonical(value)?);
            }
        }
        if groups.is_empty() && weights.is_empty() {
            return Some(roster);
        }
        // Everybody who votes is in a group, and nobody else.
        let voters = roster.voters();
        let weigh = |(id, group)| (id, (group, weights.get(&id).copied().unwrap_or(1)));
        let is_complete = voters.iter().eq(groups.keys());
        roster.groups = Some(groups.into_iter().map(weigh).collect());
        is_complete.then_some(roster)
    }

    /// The canonical text.
    #[must_use]
    pub fn text(&self) -> String {
        let lines: String = self.lines.iter().map(|(id, line)| format!("server.{id}={line}\n")).collect();
        let (mut groups, mut weights) = (BTreeMap::<i64, Vec<String>>::new(), String::new());
        for (id, (group, weight)) in self.groups.iter().flatten() {
            groups.entry(*group).or_default().push(id.to_string());
            weights += &format!("weight.{id}={weight}\n");
        }
        let groups = groups.iter().map(|(group, ids)| format!("group.{group}={}\n", ids.join(":")));
        format!("{lines}{}{weights}version={:x}", groups.collect::<String>(), self.version)
    }

    /// Those who vote, by id.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<i64> {
        let votes = |line: &String| line.split(';').next().is_some_and(|peer| peer.ends_with(":participant"));
        self.lines.iter().filter(|(_, line)| votes(line)).map(|(id, _)| *id).collect()
    }

    /// Whether these are enough to decide under it: more than half of those who vote; or, where there are groups, more than
    /// half of the weight in more than half of the groups that have any.
    #[must_use]
    pub fn is_quorum(&self, servers: &BTreeSet<i64>) -> bool {
        let Some(groups) = &self.groups else {
            let voters = self.voters();
            return voters.intersection(servers).count() * 2 > voters.len();
        };
        let mut sums = BTreeMap::<i64, (i64, i64)>::new();
        for (id, (group, weight)) in groups {
            let (all, theirs) = sums.entry(*group).or_default();
            *all += weight;
            *theirs += if servers.contains(id) { *weight } else { 0 };
        }
        sums.retain(|_, (all, _)| *all > 0);
        let won = sums.values().filter(|(all, theirs)| theirs * 2 > *all).count();
        won * 2 > sums.len()
    }

    /// What a request makes of it, if only the request itself and this configuration matter.
    ///
    /// # Errors
    /// What the client is told.
    pub fn changed(&self, wanted: &Reconfig<'_>, version: i64) -> Result<Roster, ErrorCode> {
        if wanted.from_config != -1 && wanted.from_config != self.version {
            return Err(ErrorCode::BADVERSION);
        }
        let mut new = match wanted.new_members.as_deref() {
            Some(members) => {
                let text = members.replace(',', "\n");
                Roster::parse(&text).ok_or(ErrorCode::BADARGUMENTS)?
            }
            None => self.stepped(wanted)?,
        };
        new.version = version;
        if new.voters().len() < VOTERS_MIN { Err(ErrorCode::BADARGUMENTS) } else { Ok(new) }
    }

    /// Some leave, then some join; where there are groups nobody would know which one to join.
    fn stepped(&self, wanted: &Reconfig<'_>) -> Result<Roster, ErrorCode> {
        if self.groups.is_some() {
            return Err(ErrorCode::BADARGUMENTS);
        }
        let mut new = self.clone();
        for id in parts(wanted.leaving.as_deref()) {
            new.lines.remove(&id.parse::<i64>().map_err(|_| ErrorCode::MARSHALLINGERROR)?);
        }
        for part in parts(wanted.joining.as_deref()) {
            let (key, value) = part.split_once('=').ok_or(ErrorCode::BADARGUMENTS)?;
            let id = id_of(key.trim()).ok_or(ErrorCode::BADARGUMENTS)?;
            let line = canonical(value.trim()).ok_or(ErrorCode::BADARGUMENTS)?;
            if !line.contains(';') {
                return Err(ErrorCode::BADARGUMENTS);
            }
            new.lines.insert(id, line);
        }
        let mut taken = BTreeSet::new();
        let clash = new.lines.values().any(|line| {
            let own: BTreeSet<String> = addresses(line).into_iter().collect();
            own.into_iter().any(|address| !taken.insert(address))
        });
        if clash { Err(ErrorCode::BADARGUMENTS) } else { Ok(new) }
    }
}

fn parts(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn id_of(key: &str) -> Option<i64> {
    number(key.strip_prefix("server.")?)
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number| *number >= 0)
}

/// A line with its role named, and the client's address with its host.
fn canonical(line: &str) -> Option<String> {
    let (peer, client) = match line.split_once(';') {
        Some((peer, client)) => (peer, Some(client)),
        None => (line, None),
    };
    let words: Vec<&str> = peer.split(':').collect();
    let (host, quorum, election, role) = match words.as_slice() {
        [host, quorum, election] => (host, quorum, election, "participant"),
        [host, quorum, election, role] => (host, quorum, election, *role),
        _ => return None,
    };
    let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
    if host.is_empty() || !is_port(quorum) || !is_port(election) || quorum == election {
        return None;
    }
    if !["participant", "observer"].contains(&role) {
        return None;
    }
    let client = match client {
        None => String::new(),
        Some(port) if is_port(port) => format!(";0.0.0.0:{port}"),
        Some(address) => match address.split_once(':') {
            Some((host, port)) if !host.is_empty() && is_port(port) => format!(";{host}:{port}"),
            _ => return None,
        },
    };
    Some(format!("{host}:{quorum}:{election}:{role}{client}"))
}

/// The addresses of a line that no other server may have.
fn addresses(line: &str) -> Vec<String> {
    let (peer, client) = line.split_once(';').unwrap_or((line, ""));
    let words: Vec<&str> = peer.split(':').collect();
    let [host, quorum, election, _] = words.as_slice() else { return Vec::new() };
    let own = [format!("{host}:{quorum}"), format!("{host}:{election}")];
    own.into_iter()
        .chain((!client.is_empty() && !client.starts_with("0.0.0.0:")).then(|| client.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "server.1=s1:2888:3888:participant;s1:2181\nserver.2=s2:2888:3888:participant;s2:2181\n\
                         server.3=s3:2888:3888:observer;s3:2181\nversion=100000000";

    fn ask<'a>(joining: Option<&'a str>, leaving: Option<&'a str>, from_config: i64) -> Reconfig<'a> {
        let (joining, leaving) = (joining.map(Into::into), leaving.map(Into::into));
        Reconfig { joining, leaving, new_members: None, from_config }
    }

    #[test]
    fn members_join_leave_and_change() {
        let roster = Roster::parse(THREE).unwrap();
        assert_eq!(roster.text(), THREE);
        assert_eq!(roster.voters(), BTreeSet::from([1, 2]));
        let new = roster.changed(&ask(Some("server.3=s3:2888:3888;2181"), Some("1"), 1 << 32), 7).unwrap();
        assert_eq!(new.voters(), BTreeSet::from([2, 3]));
        assert_eq!((new.version, new.lines[&3].as_str()), (7, "s3:2888:3888:participant;0.0.0.0:2181"));
        let full = Reconfig { new_members: Some(THREE.replace('\n', ",").into()), ..ask(None, None, -1) };
        assert_eq!(new.changed(&full, 9).unwrap().voters(), BTreeSet::from([1, 2]));
    }

    /// Five who vote in three groups, of which the last one weighs nothing.
    fn grouped() -> Roster {
        let lines: String = (1..6).map(|n| format!("server.{n}=s{n}:1:2:participant;s{n}:3\n")).collect();
        let groups = "group.7=4:5\ngroup.2=1:2\ngroup.9=3\nweight.3=0\nweight.1=3\nweight.2=2\n";
        Roster::parse(&format!("{groups}{lines}version=5")).unwrap()
    }

    #[test]
    fn groups_have_a_text_of_their_own() {
        let text = grouped().text();
        assert!(text.ends_with(
            "group.2=1:2\ngroup.7=4:5\ngroup.9=3\n\
             weight.1=3\nweight.2=2\nweight.3=0\nweight.4=1\nweight.5=1\nversion=5"
        ));
        assert_eq!(Roster::parse(&text), Some(grouped()));
        let one = "server.1=s1:1:2:participant\n";
        for wrong in ["group.1=1:2", "weight.1=1", "group.1=1\ngroup.2=1", "group.1=1\nweight.1=-1"] {
            assert_eq!(Roster::parse(&format!("{one}{wrong}")), None, "{wrong}");
        }
        assert!(Roster::parse(&format!("{one}group.1=1")).is_some());
    }

    #[test]
    fn more_than_half_of_the_weight_in_more_than_half_of_the_groups_decides() {
        let roster = grouped();
        let is_quorum = |servers: &[i64]| roster.is_quorum(&servers.iter().copied().collect());
        assert!(is_quorum(&[1, 4, 5]));
        assert!(!is_quorum(&[2, 4, 5]), "2 of 5");
        assert!(!is_quorum(&[1, 2, 3, 4]), "half of a group, and one that weighs nothing");
        let new = roster.changed(&ask(None, Some("3"), -1), 7);
        assert_eq!(new, Err(ErrorCode::BADARGUMENTS), "one by one nobody leaves a group");
        let full =
            Reconfig { new_members: Some(roster.text().replace('\n', ",").into()), ..ask(None, None, -1) };
        assert_eq!(roster.changed(&full, 9).unwrap().groups, roster.groups);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let roster = Roster::parse(THREE).unwrap();
        let refused = |joining, leaving, from| roster.changed(&ask(joining, leaving, from), 7).unwrap_err();
        assert_eq!(refused(None, Some("1"), -1), ErrorCode::BADARGUMENTS, "one voter is too few");
        assert_eq!(refused(None, Some("one"), -1), ErrorCode::MARSHALLINGERROR);
        assert_eq!(refused(None, Some("3"), 5), ErrorCode::BADVERSION);
        assert_eq!(
            refused(Some("server.4=s1:2888:3888;s4:2181"), None, -1),
            ErrorCode::BADARGUMENTS,
            "clash"
        );
        assert_eq!(
            refused(Some("server.4=s4:2888:3888"), None, -1),
            ErrorCode::BADARGUMENTS,
            "no client port"
        );
    }
}

//! Groups and weights for voters, as lines of a configuration.

use crate::chance::Chance;

/// Draws two or three groups for the servers of these numbers, or one where there are fewer, and what each voice weighs:
/// 0 to 3, and not nothing at all. In half of all draws nobody weighs more than another.
#[must_use]
pub fn draw(voters: &[usize], chance: &mut Chance) -> Vec<String> {
    let count = (2 + chance.index(2)).min(voters.len());
    let is_weighted = chance.happens(0.5);
    let mut groups = vec![Vec::new(); count];
    let mut weights = Vec::new();
    for (place, voter) in voters.iter().enumerate() {
        // None stays empty.
        let group = if place < count { place } else { chance.index(count) };
        if let Some(group) = groups.get_mut(group) {
            group.push(voter.to_string());
        }
        let weight = chance.one_of([0, 1, 1, 2, 3]).max(u64::from(place == 0));
        if is_weighted && (weight != 1 || chance.happens(0.5)) {
            weights.push(format!("weight.{voter}={weight}"));
        }
    }
    let lines = (1..).zip(groups).map(|(number, group)| format!("group.{number}={}", group.join(":")));
    lines.chain(weights).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::Roster;

    #[test]
    fn everybody_is_in_a_group_and_all_of_them_decide() {
        let (mut light, mut sizes) = (0, [0; 4]);
        for seed in 0..500 {
            let mut chance = Chance::new(seed);
            let voters: Vec<usize> = (1..=1 + chance.index(7)).collect();
            let lines = draw(&voters, &mut chance).join("\n");
            let servers: String =
                voters.iter().map(|n| format!("server.{n}=s{n}:1:2:participant\n")).collect();
            let roster = Roster::parse(&format!("{servers}{lines}")).unwrap();
            assert!(roster.is_quorum(&roster.voters()), "{lines}");
            let groups = roster.groups.unwrap();
            light += groups.values().filter(|(_, weight)| *weight == 0).count();
            let numbers: std::collections::BTreeSet<i64> = groups.values().map(|(group, _)| *group).collect();
            sizes[numbers.len()] += 1;
        }
        assert!(light > 50 && sizes[2] > 100 && sizes[3] > 100, "{light} light, {sizes:?}");
    }
}

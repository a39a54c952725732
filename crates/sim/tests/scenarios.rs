//! Scenarios in words: what is done to an ensemble, and what its servers then become. One file for each known hazard;
//! `UPDATE_EXPECT=1` writes what happens now, and a change is to be reviewed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use expect_test::expect_file;
use oxkeeper_sim::chance::Chance;
use oxkeeper_sim::network::{Host, Port};
use oxkeeper_sim::queue::{MS, SECOND};
use oxkeeper_sim::swarm::Swarm;
use oxkeeper_sim::trace::Trace;
use oxkeeper_sim::world::World;
use oxkeeper_sim::{Profile, workload};

/// What is done, line by line, and the first word of what is kept of the trace.
fn play(script: &str) -> String {
    let mut chance = Chance::new(1);
    let mut swarm = Swarm::draw(Profile::CalmEnsemble, &mut chance);
    (swarm.voters, swarm.servers, swarm.without) = (3, 3, 0);
    swarm.server.tick_ms = 1000;
    swarm.server.snap_count = 1000;
    swarm.server.force_snapshot = false;
    swarm.clients.truncate(1);
    for (kind, habits) in &mut swarm.clients {
        *kind = workload::Kind::Register;
        (habits.timeout_ms, habits.pause, habits.restless, habits.moves) = (6000, SECOND / 4, 0, 0);
    }
    let mut world = World::new(&swarm, &mut chance, Trace::of(100_000));
    world.start();
    for line in script.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at: f64 = words[1].parse().unwrap();
        world.run_until((at * 1000.0) as u64 * MS);
        let server = words.get(3).map_or(0, |word| word.parse().unwrap());
        act(&mut world, words[2], server);
    }
    assert_eq!(world.stage.observer.violation, None);
    let kept = |line: &String| {
        let told = line.split_whitespace().skip(1).collect::<Vec<_>>();
        let is_server =
            told.first() == Some(&"server") && !matches!(told.get(2), Some(&("->" | "<-" | "tells")));
        let is_plan = ["Snap {", "Trunc {", "Diff {"].iter().any(|plan| line.contains(plan));
        is_server || is_plan && told.get(2) == Some(&"->")
    };
    let lines: Vec<String> = world.stage.trace.lines().into_iter().filter(kept).collect();
    lines.join("\n") + "\n"
}

fn act(world: &mut World, what: &str, index: usize) {
    let World { stage, servers, .. } = world;
    stage.observer.is_calm = false;
    let count = servers.len();
    let server = &mut servers[index];
    match what {
        "power-loss" => server.crash(stage, true),
        "kill" => server.crash(stage, false),
        "start" => server.start(stage),
        "wipe" => server.wipe(stage),
        "pause-5s" => server.pause(stage.queue.now() + 5 * SECOND),
        "cut-off" => {
            for other in (0..count).filter(|other| *other != index) {
                for port in [Port::Quorum, Port::Election] {
                    stage.net.block(Host::Server(index), Host::Server(other), port);
                    stage.net.block(Host::Server(other), Host::Server(index), port);
                }
            }
        }
        "heal" => stage.net.unblock_all(&mut stage.queue),
        "end" => {}
        other => panic!("nobody knows how to {other}"),
    }
}

#[test]
fn every_scenario_ends_as_it_says() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut count = 0;
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let script = text.split("\n---\n").next().unwrap().trim_end();
        let played = play(script);
        expect_file![&path].assert_eq(&format!("{script}\n\n---\n{played}"));
        count += 1;
    }
    assert!(count >= 4);
}

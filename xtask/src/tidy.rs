//! What no compiler checks: who may import whom, how long a file may be, and which calls pure crates must not
//! make.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Each crate, whether it is pure, and which crates of ours it may import.
const LAYERS: &[(&str, bool, &[&str])] = &[
    ("planted", false, &[]),
    ("proto", true, &[]),
    ("config", true, &["proto"]),
    ("tree", true, &["proto", "planted"]),
    ("zab", true, &["proto", "planted"]),
    ("node", true, &["proto", "config", "tree", "zab", "planted"]),
    ("storage", false, &["proto", "planted"]),
    ("sim", true, &["proto", "config", "tree", "zab", "node", "storage", "planted"]),
    ("server", false, &["proto", "config", "node", "storage", "planted"]),
    ("cli", false, &["server", "storage", "tree", "config", "proto"]),
];

/// Lines of a file, its tests left out.
const LINES_MAX: usize = 800;

/// What pure code must not call: time, chance, files and sockets are arguments.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::thread",
    "tokio::",
    "fastrand::",
    "std::env::var",
    "std::collections::HashMap",
    "std::collections::HashSet",
];

/// What no code of ours holds.
const BANNED: &[&str] = &["todo!(", "unimplemented!(", "dbg!(", "#[ignore", "process::exit"];

pub(crate) fn run() -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    let mut files = 0;
    for (name, pure, allowed) in LAYERS {
        let dir = Path::new("crates").join(name);
        check_layers(&dir, name, allowed, &mut wrong)?;
        for path in sources(&dir)? {
            files += 1;
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            check_file(&path, &text, *pure && path.starts_with(dir.join("src")), &mut wrong);
        }
    }
    check_all_known(&mut wrong)?;
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!("tidy: {} crates, {files} files, nothing wrong", LAYERS.len());
    Ok(())
}

/// Compares a manifest's dependencies with the table; those for tests are exempt.
fn check_layers(dir: &Path, name: &str, allowed: &[&str], wrong: &mut Vec<String>) -> anyhow::Result<()> {
    let manifest = dir.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    let mut is_dependency = false;
    for line in text.lines() {
        if let Some(section) = line.strip_prefix('[') {
            is_dependency = section.starts_with("dependencies");
        }
        let imported = line.strip_prefix("oxkeeper-").and_then(|rest| rest.split(['.', ' ', '=']).next());
        if let Some(other) = imported.filter(|other| is_dependency && !allowed.contains(other)) {
            wrong.push(format!("{}: {name} may not import {other}", manifest.display()));
        }
    }
    Ok(())
}

fn check_file(path: &Path, text: &str, pure: bool, wrong: &mut Vec<String>) {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().count();
    if lines > LINES_MAX {
        wrong.push(format!(
            "{}: {lines} lines without tests, at most {LINES_MAX} are allowed",
            path.display()
        ));
    }
    for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
        let place = format!("{}:{}", path.display(), number + 1);
        for word in BANNED.iter().filter(|word| line.contains(**word)) {
            wrong.push(format!("{place}: {word} has no place here"));
        }
        for call in IMPURE.iter().filter(|call| pure && line.contains(**call)) {
            wrong.push(format!("{place}: {call} in a pure crate"));
        }
    }
}

fn check_all_known(wrong: &mut Vec<String>) -> anyhow::Result<()> {
    for entry in fs::read_dir("crates")? {
        let name = entry?.file_name();
        if !LAYERS.iter().any(|(known, ..)| name == **known) {
            wrong.push(format!("crates/{} is not in the table of layers", name.to_string_lossy()));
        }
    }
    Ok(())
}

fn sources(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

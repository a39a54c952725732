//! Between the corpora of the repository, a line for each input, and what libFuzzer reads, a file for each input.
//!
//! `corpus unpack DIRECTORY` writes seeds and kept inputs of every target into directories of their names;
//! `corpus pack TARGET DIRECTORY` keeps what is in a directory as the corpus of a target.

use std::fs;
use std::io;
use std::path::Path;

use oxkeeper_fuzz::{TARGETS, seeds};

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["unpack", into] => unpack(Path::new(into)),
        ["pack", target, from] => {
            let inputs = fs::read_dir(from)?.map(|entry| fs::read(entry?.path()));
            seeds::keep(target, inputs.collect::<io::Result<_>>()?)
        }
        _ => Err(io::Error::other("corpus unpack DIRECTORY | corpus pack TARGET DIRECTORY")),
    }
}

fn unpack(into: &Path) -> io::Result<()> {
    for (name, _) in TARGETS {
        let dir = into.join(name);
        fs::create_dir_all(&dir)?;
        for (n, input) in seeds::of(name).iter().chain(&seeds::kept(name)).enumerate() {
            fs::write(dir.join(n.to_string()), input)?;
        }
    }
    Ok(())
}

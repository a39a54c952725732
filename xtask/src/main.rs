//! Checks of the repository itself: `cargo run -p xtask -- tidy`, and of its tests: `cargo run -p xtask -- planted`.

mod planted;
mod tidy;

use anyhow::bail;

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("planted") => planted::run(),
        Some("tidy") => tidy::run(),
        other => bail!("unknown task {other:?}; there are: planted, tidy"),
    }
}

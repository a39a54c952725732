//! Checks of the repository itself: `cargo run -p xtask -- tidy`.

mod tidy;

use anyhow::bail;

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => tidy::run(),
        other => bail!("unknown task {other:?}; there is: tidy"),
    }
}

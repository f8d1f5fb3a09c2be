//! A proposal is a future, for any runtime: many are under way at once, and each is awaited where its reply is needed.
//!
//! `cargo run --release -p logdrive --example futures`

mod support;

use std::{error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    support::run_and_print(run)
}

pub(crate) fn run(dir: &Path) -> Result<u64, Box<dyn Error>> {
    let (node, group) = support::alone(dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let counted = runtime.block_on(async {
        // All are proposed before the first is awaited: they share the log's writes.
        let proposals: Vec<_> = (0..100).map(|_| group.propose("command")).collect();
        let mut counted = 0;
        for proposal in proposals {
            let applied = proposal.await?;
            counted = u64::from_le_bytes(applied.reply[..].try_into()?);
        }
        // Commands that enter the log together have one future.
        let outcomes = group.propose_batch(vec!["command".into(); 100]).await;
        counted += u64::try_from(outcomes.iter().filter(|outcome| outcome.is_ok()).count())?;
        Ok::<_, Box<dyn Error>>(counted)
    })?;
    node.close()?;
    Ok(counted)
}

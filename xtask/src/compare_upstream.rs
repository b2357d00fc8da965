//! Later.
use crate::Args;
use anyhow::Result;
pub fn run(_: Args<'_>) -> Result<()> {
    Ok(())
}

//! The layout rules as a test: whoever breaks one learns it from `cargo test`, without running xtask.

#[path = "../xtask/src/layout.rs"]
#[allow(dead_code)]
mod layout;

/// The folders do only what DESIGN.md says they do.
#[test]
fn layout_rules() {
    let findings = layout::check(std::path::Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(findings.errors.is_empty(), "\n{}", findings.errors.join("\n"));
}

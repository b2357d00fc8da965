//! The documentation says what the program does.

use klp_build::error::Reason;

/// Protects scripts that match on codes: every code is documented, and no other.
#[test]
fn every_reason_is_documented() {
    let text = std::fs::read_to_string("docs/json.md").unwrap();
    let codes = text.split("## Codes of refusals").nth(1).unwrap();
    let documented: Vec<&str> = codes.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
    let known: Vec<&str> = Reason::ALL.iter().map(|r| r.code()).collect();
    assert_eq!(documented, known);
}

//! The kernels that the tests and the demo use, as a table: where each comes from and how it is made.
//!
//! Point releases are never named: apt is asked for the newest. A new kernel is a new line here and, when it
//! is built, a configuration under tests/kernels/.

use crate::sources::Suite;

/// How a kernel is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Built from a source package with a small configuration.
    Built {
        /// `linux-source-X.Y`.
        source: &'static str,
        /// Where that package is.
        suite: Suite,
        /// Configuration merged over `tinyconfig`, below tests/kernels/.
        config: &'static str,
    },
    /// The distribution's own image, headers and source packages, unpacked; nothing is compiled.
    Stock {
        /// Depends on the image package of the newest point release.
        image: &'static str,
        /// Depends on the headers package of the same.
        headers: &'static str,
        /// `linux-source-X.Y`.
        source: &'static str,
    },
}

/// One kernel.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// What `cargo xtask kernel` calls it.
    pub name: &'static str,
    /// Where it comes from.
    pub kind: Kind,
}

/// All of them.
pub const KERNELS: &[Spec] = &[
    Spec {
        name: "linux-7",
        kind: Kind::Built {
            source: "linux-source-7.3",
            suite: Suite::Other("trixie-backports"),
            config: "linux-7.config",
        },
    },
    Spec {
        name: "debian-6.12",
        kind: Kind::Stock {
            image: "linux-image-6.12-amd64",
            headers: "linux-headers-6.12-amd64",
            source: "linux-source-6.12",
        },
    },
    // The distribution's own series: another livepatch interface, no objtool for linked modules, no IBT.
    Spec {
        name: "debian-6.1",
        kind: Kind::Stock { image: "linux-image-amd64", headers: "linux-headers-amd64", source: "linux-source-6.1" },
    },
    // A built tree from before 6.19: no objtool for livepatches, no KLP_BUILD, no IBT in its configuration.
    Spec {
        name: "linux-6.12",
        kind: Kind::Built { source: "linux-source-6.12", suite: Suite::Own, config: "linux-6.12.config" },
    },
];

/// The names, for help texts.
pub fn names() -> Vec<&'static str> {
    KERNELS.iter().map(|k| k.name).collect()
}

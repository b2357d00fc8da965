//! What a run can answer besides a module: refusals with a stable code, and errors with an exit class.
//!
//! A refusal means that the inputs were understood and the answer is no; all refusals of a run are
//! collected and shown together. Everything else that goes wrong is an `anyhow` chain, outermost
//! "failed to <verb> `<thing>`" first; [`ToolFailure`] in a chain marks a compiler or kbuild failure.

use std::fmt;

use serde::Serialize;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal),+ $(,)?) => {
        /// Why a livepatch was refused. The code of each is stable: scripts match on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $variant),+ }

        impl Reason {
            /// All reasons, in the order of the documentation.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),+];

            /// The stable kebab-case code.
            pub fn code(self) -> &'static str {
                match self { $(Reason::$variant => $code),+ }
            }
        }
    };
}

reasons! {
    /// A file that cannot be livepatched at all: assembly, vDSO, boot or tools code, linker scripts.
    UnsupportedFile = "unsupported-file",
    /// A touched source file is in no object that this configuration builds.
    NotBuilt = "not-built",
    /// A changed function or a reference lies in code or data that is freed after boot.
    InitSection = "init-section",
    /// ftrace has no call site in a changed function.
    NotHookable = "not-hookable",
    /// Data that exists in the running kernel has another initial value.
    DataChanged = "data-changed",
    /// Data that exists in the running kernel has another size, alignment or section.
    DataResized = "data-resized",
    /// Several symbols of the original could be the one that the patched code means.
    AmbiguousTwin = "ambiguous-twin",
    /// Several symbols of the kernel have the name, and which is meant cannot be told.
    AmbiguousSymbol = "ambiguous-symbol",
    /// A function of the kernel that cannot be called by its address on this kernel is given away.
    NoEndbr = "no-endbr",
    /// The same, for want of a hash before the function.
    NoHash = "no-hash",
    /// A new function or variable has the name of one that the kernel has already.
    AlreadyDefined = "already-defined",
    /// No symbol of the kernel can be what a reference needs.
    UnresolvedSymbol = "unresolved-symbol",
    /// A static key or static call of a module cannot be used from a livepatch.
    ModuleKey = "module-key",
    /// The patch makes a module need another module that it did not need before.
    NewDependency = "new-dependency",
    /// A new initcall, parameter or export: it would never run or never be seen. What is taken out of a table stays there.
    NeverRuns = "never-runs",
    /// The code is part of what carries a livepatch out.
    Recursion = "recursion",
    /// A table in the object is not understood well enough to carry it.
    UnknownSection = "unknown-section",
    /// A relocation kind that cannot be carried.
    UnknownRelocation = "unknown-relocation",
    /// The layout of a type that unpatched code also uses is not the same, nor is what objects that exist hold.
    LayoutChanged = "layout-changed",
    /// A name that the kernel's loader cannot parse.
    BadName = "bad-name",
    /// The patch asks for something this kernel does not have.
    KernelLacks = "kernel-lacks",
    /// The compiled original is not what the image holds.
    ImageMismatch = "image-mismatch",
    /// The patch changes what is compiled (Kconfig, Makefile), not code.
    BuildSystem = "build-system",
    /// The finished module would break a rule of the kernel's loader.
    FormatRule = "format-rule",
    /// The compiler is not the one that built the kernel.
    CompilerMismatch = "compiler-mismatch",
    /// The module is for another kernel: `check`, or a build whose directory is of another one.
    OtherKernel = "other-kernel",
    /// An export has another CRC in this kernel than in the module.
    CrcMismatch = "crc-mismatch",
    /// `check`: an export is in a namespace that the module does not import.
    MissingNamespace = "missing-namespace",
    /// `check`: the kernel loads signed modules only.
    Unsigned = "unsigned",
    /// `check`: a livepatch of this name is loaded.
    AlreadyLoaded = "already-loaded",
    /// `check`: a loaded livepatch is in transition.
    InTransition = "in-transition",
    /// `check`: a livepatch of another set replaces the same function.
    FunctionConflict = "function-conflict",
    /// `check`: a livepatch of another set has the same state.
    StateConflict = "state-conflict",
    /// `check`: a loaded livepatch has a newer version of a state.
    StateTooOld = "state-too-old",
    /// `check`: a livepatch that is replaced has a state which the new one does not have.
    StateDropped = "state-dropped",
    /// `check`: something other than a livepatch redirects the function.
    FunctionBusy = "function-busy",
    /// `check`, a warning: a livepatch that is replaced patches a function which the new one does not.
    FixDropped = "fix-dropped",
    /// `check`, a warning: the function hides that of a livepatch which stays.
    FixHidden = "fix-hidden",
    /// `check`: which functions a livepatch replaces cannot be read. A warning where it is another livepatch.
    ObjectsUnknown = "objects-unknown",
    /// `check`, a warning: what the module replaces, or is replaced by, cannot be told.
    ReplaceUnknown = "replace-unknown",
    /// `check`, a warning: some task is always in the function, so the transition may not end.
    AlwaysRunning = "always-running",
    /// `check`, a warning: a kprobe watches the function's own code, which will not run.
    Probed = "probed",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.code())
    }
}

/// One "no", with where it is and what to do about it.
#[derive(Debug, Clone, Serialize)]
pub struct Refusal {
    /// The stable code.
    pub reason: Reason,
    /// Kernel object (vmlinux or a module's name) it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Symbol it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    /// Section it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section: Option<String>,
    /// Offset in that section, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What is wrong: lower case, no final period.
    pub message: String,
    /// One line of what to do.
    pub advice: String,
}

impl Refusal {
    /// A refusal that names no place yet.
    pub fn new(reason: Reason, message: impl Into<String>, advice: impl Into<String>) -> Refusal {
        Refusal {
            reason,
            object: None,
            symbol: None,
            section: None,
            offset: None,
            message: message.into(),
            advice: advice.into(),
        }
    }

    /// The same, about an object.
    pub fn object(mut self, name: impl Into<String>) -> Refusal {
        self.object = Some(name.into());
        self
    }

    /// The same, about a symbol.
    pub fn symbol(mut self, name: impl Into<String>) -> Refusal {
        self.symbol = Some(name.into());
        self
    }

    /// The same, at a place in a section.
    pub fn at(mut self, section: impl Into<String>, offset: u64) -> Refusal {
        self.section = Some(section.into());
        self.offset = Some(offset);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        write!(f, "{} [{}]", self.message, self.reason)
    }
}

/// A compiler, kbuild or objtool run that failed; exit status 3.
#[derive(Debug)]
pub struct ToolFailure {
    /// What was being done, as "compile `fs/proc/cmdline.c`".
    pub doing: String,
    /// What the tool printed, already cut to a readable length.
    pub output: String,
}

impl fmt::Display for ToolFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {}", self.doing)?;
        if !self.output.is_empty() {
            write!(f, "\n{}", self.output.trim_end())?;
        }
        Ok(())
    }
}

impl std::error::Error for ToolFailure {}

/// Refusals as an error, for stages before the diff that can only stop; exit status 1.
#[derive(Debug)]
pub struct Refused(pub Vec<Refusal>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, refusal) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{refusal}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

//! Livepatches side by side: what a new one would replace, and what it would meet.
//!
//! In: a livepatch and those that are enabled. Out: findings. The rules are the kernel's: states by kernel/livepatch/state.c,
//! sets by runtime/README.md ("What decides what"). A fix that goes away with the livepatch that brought it breaks no rule, so
//! nobody but a check before loading says so. One function may have several names, so functions are the same by name or, where
//! the kernel's symbols tell it, by address.

use std::collections::HashMap;

use crate::error::{Reason, Refusal};
use crate::inspect::{Function, Inspection, PatchedObject, State};
use crate::kernel::abi;
use crate::kernel::symtab::Address;

use super::{Finding, about};

/// What a livepatch replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Nothing.
    Nothing,
    /// All.
    Everything,
    /// Those of its set.
    Set(u32),
    /// It cannot be told.
    Unknown,
}

impl Scope {
    /// Whether a livepatch with this scope replaces one with the other.
    fn covers(self, other: Scope) -> bool {
        match self {
            Scope::Everything => true,
            Scope::Set(_) => self == other,
            Scope::Nothing | Scope::Unknown => false,
        }
    }

    /// Whether the two may have nothing in common.
    fn apart(self, other: Scope) -> bool {
        matches!((self, other), (Scope::Set(a), Scope::Set(b)) if a != b)
    }
}

/// Where a function of an object is, if that is known.
pub type Addresses<'a> = &'a dyn Fn(&str, &Function) -> Option<Address>;

/// A livepatch among others.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its name, with underscores, as sysfs has it.
    pub name: String,
    /// What it replaces.
    pub scope: Scope,
    /// What it patches; `None` where nothing tells.
    pub objects: Option<Vec<PatchedObject>>,
    /// Its states; `None` where nothing tells.
    pub states: Option<Vec<State>>,
    /// It is on its way in or out.
    pub in_transition: bool,
}

impl Peer {
    /// From a module's file.
    pub fn of(found: &Inspection, has: abi::Replace) -> Peer {
        // The member is read without the kernel's headers, and set 0 and 1 look like the boolean: this kernel tells them apart.
        let member = found.replace.map(u32::from).or(found.replace_member);
        let scope = match (has, found.replace_set, member) {
            (abi::Replace::Set, Some(set), _) | (abi::Replace::Set, None, Some(set)) => Scope::Set(set),
            (abi::Replace::Boolean, None, Some(1)) => Scope::Everything,
            (abi::Replace::Boolean, None, Some(0)) | (abi::Replace::None, ..) => Scope::Nothing,
            _ => Scope::Unknown,
        };
        Peer {
            name: found.name.replace('-', "_"),
            scope,
            objects: (!found.objects_unknown).then(|| found.objects.clone()),
            states: (!found.states_unknown).then(|| found.states.clone()),
            in_transition: false,
        }
    }

    /// Adds what its file tells to what sysfs does. What sysfs shows is so; a copy of it may lack a function's directory, in which
    /// there is no file, and it never has states.
    pub fn learn(&mut self, file: Peer) {
        if self.scope == Scope::Unknown {
            self.scope = file.scope;
        }
        self.states = file.states.or(self.states.take());
        let Some(theirs) = file.objects else { return };
        let Some(objects) = &mut self.objects else {
            self.objects = Some(theirs);
            return;
        };
        for PatchedObject { name, functions, callbacks } in theirs {
            let at = objects.iter().position(|object| object.name == name).unwrap_or_else(|| {
                objects.push(PatchedObject { name, functions: Vec::new(), callbacks: Vec::new() });
                objects.len() - 1
            });
            let known = &mut objects[at];
            let new: Vec<Function> =
                functions.into_iter().filter(|f| !known.functions.iter().any(|k| same(k, f))).collect();
            known.functions.extend(new);
            known.callbacks = callbacks;
        }
    }

    fn functions(&self) -> impl Iterator<Item = (&str, &Function)> {
        self.objects.iter().flatten().flat_map(|o| o.functions.iter().map(|f| (o.name.as_str(), f)))
    }

    /// Whether it patches a function, by this name or another; position 0 ("the only one") and 1 are the same.
    pub fn patches(&self, object: &str, function: &Function, addresses: Addresses<'_>) -> bool {
        let mut own = self.functions().filter(|(name, _)| *name == object).map(|(_, f)| f);
        let at = addresses(object, function);
        own.any(|f| same(f, function) || at.is_some() && addresses(object, f) == at)
    }

    fn state(&self, id: u64) -> Option<&State> {
        self.states.iter().flatten().find(|state| state.id == id)
    }
}

/// Position 0 ("the only one") and 1 are the same.
fn same(a: &Function, b: &Function) -> bool {
    a.function == b.function && a.sympos.max(1) == b.sympos.max(1)
}

/// Takes out what `new` replaces, and gives the names.
pub fn replace(new: &Peer, peers: &mut Vec<Peer>) -> Vec<String> {
    let gone = peers.iter().filter(|old| new.scope.covers(old.scope)).map(|old| old.name.clone()).collect();
    peers.retain(|old| !new.scope.covers(old.scope));
    gone
}

/// What comes of enabling `new` where `peers` are enabled.
pub fn findings(new: &Peer, peers: &[Peer], has: abi::Replace, addresses: Addresses<'_>) -> Vec<Finding> {
    let mut out = Vec::new();
    let located = |(object, f)| Some(((object, addresses(object, f)?), f));
    let own: HashMap<(&str, Address), &Function> = new.functions().filter_map(located).collect();
    if new.objects.is_none() {
        let message =
            format!("what `{}` replaces cannot be read: its tables are of no form that is understood", new.name);
        let advice =
            "ask the tool that built it which functions it replaces: neither they nor what else has them were checked";
        out.push(Finding::error(&new.name, Refusal::new(Reason::ObjectsUnknown, message, advice)));
    }
    for old in peers {
        let before = out.len();
        if old.name == new.name {
            out.push(Finding::error(
                &new.name,
                Refusal::new(
                    Reason::AlreadyLoaded,
                    format!("a livepatch `{}` is loaded already", old.name),
                    "give each livepatch a name of its own (-o), or take the other one out first",
                ),
            ));
        }
        if old.in_transition {
            out.push(Finding::error(
                &new.name,
                Refusal::new(
                    Reason::InTransition,
                    format!("`{}` is in transition, and the kernel enables one livepatch at a time", old.name),
                    "wait until its `transition` is 0",
                ),
            ));
        }
        if old.objects.is_none() {
            let message =
                format!("what `{}` replaces cannot be read, so `{}` was not held against it", old.name, new.name);
            let advice = "name a copy of /sys/kernel/livepatch with --loaded: the kernel knows what it replaces";
            out.push(Finding::warning(&new.name, Refusal::new(Reason::ObjectsUnknown, message, advice)));
        }
        if new.objects.is_some() {
            functions(new, old, (&own, addresses), &mut out);
        }
        states(new, old, has, &mut out);
        out[before..].iter_mut().for_each(|finding| *finding = finding.clone().with(&old.name));
    }
    let unknown = new.scope == Scope::Unknown
        || peers.iter().any(|p| p.scope == Scope::Unknown && matches!(new.scope, Scope::Set(_)));
    if unknown && !peers.is_empty() {
        let message = format!("which of the other livepatches `{}` replaces cannot be told", new.name);
        let advice = "give the modules' own files, built with klp-build, or look at `replace` in sysfs after loading";
        out.push(Finding::warning(&new.name, Refusal::new(Reason::ReplaceUnknown, message, advice)));
    }
    out
}

/// What of the new livepatch is at which address, and where other functions are.
type Located<'a> = (&'a HashMap<(&'a str, Address), &'a Function>, Addresses<'a>);

fn functions(new: &Peer, old: &Peer, (own, addresses): Located<'_>, out: &mut Vec<Finding>) {
    let (a, b) = (&new.name, &old.name);
    for (object, function) in old.functions() {
        let name = format!("{},{}", function.function, function.sympos);
        let named = new.functions().any(|(other, f)| other == object && same(f, function));
        let alias = || own.get(&(object, addresses(object, function)?)).copied();
        let alias = if named { None } else { alias() };
        let both = named || alias.is_some();
        let say = |reason, message: String, advice| about(reason, object, &function.function, message, advice);
        if let (true, Scope::Set(x), Scope::Set(y)) = (both && new.scope.apart(old.scope), new.scope, old.scope) {
            let message = match alias {
                None => format!("`{a}` of set {x} and `{b}` of set {y} both replace `{name}`"),
                Some(f) => format!(
                    "`{a}` of set {x} and `{b}` of set {y} both replace one function, which is `{},{}` and `{name}`",
                    f.function, f.sympos
                ),
            };
            out.push(Finding::error(
                a,
                say(
                    Reason::FunctionConflict,
                    message,
                    "put both changes into one livepatch, or both livepatches into one set",
                ),
            ));
        } else if new.scope.covers(old.scope) && !both {
            out.push(Finding::warning(
                a,
                say(
                    Reason::FixDropped,
                    format!("`{a}` replaces `{b}` and does not patch `{name}`: the kernel's own comes back"),
                    "add the other patch to this livepatch, unless its fix is to go",
                ),
            ));
        } else if both && !new.scope.apart(old.scope) && !new.scope.covers(old.scope) && new.scope != Scope::Unknown {
            out.push(Finding::warning(
                a,
                say(
                    Reason::FixHidden,
                    format!("`{a}` lies above `{b}`, whose `{name}` does not run while it is enabled"),
                    "build it with the other patch applied, or let it replace the other livepatch",
                ),
            ));
        }
    }
}

fn states(new: &Peer, old: &Peer, has: abi::Replace, out: &mut Vec<Finding>) {
    let (a, b) = (&new.name, &old.name);
    let mut say = |reason, message: String, advice: &str| {
        out.push(Finding::error(a, Refusal::new(reason, message, advice)));
    };
    for theirs in old.states.iter().flatten() {
        let id = theirs.id;
        match new.state(id) {
            Some(_) if new.scope.apart(old.scope) => say(
                Reason::StateConflict,
                format!("`{a}` and `{b}` are of different sets and both have state {id}"),
                "give the states different ids, or put both livepatches into one set",
            ),
            Some(mine) if mine.version < theirs.version => say(
                Reason::StateTooOld,
                format!("`{a}` has version {} of state {id}, and `{b}` has version {}", mine.version, theirs.version),
                "declare the state with the newer version, and handle what that one changed",
            ),
            // With callbacks of states, what knows how to undo itself may be left out.
            None if new.states.is_some()
                && new.scope.covers(old.scope)
                && !(has == abi::Replace::Set && theirs.can_go()) =>
            {
                say(
                    Reason::StateDropped,
                    format!("`{a}` replaces `{b}` and does not have its state {id}, which nothing would undo"),
                    "declare the state in the new livepatch, too",
                );
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Severity;

    fn peer(name: &str, scope: Scope, functions: &[(&str, u64)], states: &[(u64, u32)]) -> Peer {
        let function =
            |(name, sympos): &(&str, u64)| Function { function: (*name).to_owned(), sympos: *sympos, code: None };
        let state = |(id, version): &(u64, u32)| State { id: *id, version: *version, ..State::default() };
        Peer {
            name: name.to_owned(),
            scope,
            objects: Some(vec![PatchedObject {
                name: "vmlinux".to_owned(),
                functions: functions.iter().map(function).collect(),
                callbacks: Vec::new(),
            }]),
            states: Some(states.iter().map(state).collect()),
            in_transition: false,
        }
    }

    fn said(new: &Peer, peers: &[Peer]) -> Vec<String> {
        let line = |finding: Finding| {
            let kind = if finding.severity == Severity::Error { "error" } else { "warning" };
            format!("{kind}: {}", finding.what)
        };
        // What kallsyms of a kernel with compat system calls has.
        let address = |object: &str, f: &Function| match (object, f.function.as_str()) {
            ("vmlinux", "__do_sys_getpid" | "__x64_sys_getpid" | "__ia32_sys_getpid") => Some((None, 64)),
            _ => None,
        };
        findings(new, peers, abi::Replace::Set, &address).into_iter().map(line).collect()
    }

    /// One function with two names: two sets may not share it, and a livepatch that takes the place of another by the other name
    /// drops nothing.
    #[test]
    fn sets_conflict_by_address() {
        let a = peer("a", Scope::Set(1), &[("show", 0), ("__x64_sys_getpid", 0)], &[]);
        let with = |scope, name| said(&peer("b", scope, &[("show", 0), (name, 0)], &[]), std::slice::from_ref(&a));
        let other = |name| said(&peer("b", Scope::Set(2), &[(name, 0)], &[]), std::slice::from_ref(&a));
        assert_eq!(
            other("__ia32_sys_getpid"),
            [
                "error: vmlinux: `b` of set 2 and `a` of set 1 both replace one function, which is `__ia32_sys_getpid,0` \
              and `__x64_sys_getpid,0` [function-conflict]"
            ]
        );
        assert_eq!(other("__x64_sys_getppid"), [""; 0]);
        assert_eq!(with(Scope::Set(1), "__ia32_sys_getpid"), [""; 0]);
        assert_eq!(with(Scope::Everything, "__do_sys_getpid"), [""; 0]);
        let dropped = "warning: vmlinux: `b` replaces `a` and does not patch `__x64_sys_getpid,0`: the kernel's own comes back \
                       [fix-dropped]";
        assert_eq!(with(Scope::Set(1), "__x64_sys_getppid"), [dropped]);
        let hidden = said(&peer("b", Scope::Nothing, &[("__do_sys_getpid", 0)], &[]), std::slice::from_ref(&a));
        let text = "warning: vmlinux: `b` lies above `a`, whose `__x64_sys_getpid,0` does not run while it is enabled \
                    [fix-hidden]";
        assert_eq!(hidden, [text]);
    }

    /// Two sets may not both replace a function: one of them would be refused, or lost while the other comes.
    #[test]
    fn sets_conflict_by_function_and_position() {
        let a = peer("a", Scope::Set(1), &[("show", 0)], &[]);
        let with = |other: Peer| said(&other, std::slice::from_ref(&a));
        let text = "error: vmlinux: `b` of set 2 and `a` of set 1 both replace `show,0` [function-conflict]";
        assert_eq!(with(peer("b", Scope::Set(2), &[("show", 0)], &[])), [text]);
        assert_eq!(with(peer("b", Scope::Set(2), &[("show", 1)], &[])), [text], "0 and 1 are the same function");
        for other in [
            peer("b", Scope::Set(1), &[("show", 0)], &[]),
            peer("b", Scope::Set(2), &[("show", 2)], &[]),
            peer("b", Scope::Set(2), &[("other", 0)], &[]),
        ] {
            assert_eq!(with(other), [""; 0]);
        }
    }

    /// A cumulative livepatch without a function of the one it replaces takes a fix away; one of another set does not.
    #[test]
    fn a_dropped_fix_is_seen() {
        let old = peer("old", Scope::Set(3), &[("kept", 0), ("lost", 2)], &[]);
        let text = "warning: vmlinux: `new` replaces `old` and does not patch `lost,2`: the kernel's own comes back [fix-dropped]";
        let new = |scope| peer("new", scope, &[("kept", 0)], &[]);
        assert_eq!(said(&new(Scope::Set(3)), std::slice::from_ref(&old)), [text]);
        assert_eq!(said(&new(Scope::Everything), std::slice::from_ref(&old)), [text]);
        let apart = peer("new", Scope::Set(4), &[("third", 0)], &[]);
        assert_eq!(said(&apart, std::slice::from_ref(&old)), [""; 0]);
        let hidden =
            "warning: vmlinux: `new` lies above `old`, whose `kept,0` does not run while it is enabled [fix-hidden]";
        assert_eq!(said(&new(Scope::Nothing), std::slice::from_ref(&old)), [hidden]);
        let unknown = "warning: which of the other livepatches `new` replaces cannot be told [replace-unknown]";
        assert_eq!(said(&new(Scope::Unknown), std::slice::from_ref(&old)), [unknown]);
    }

    /// States: of another set, older than what is there, or left behind by who replaces their owner.
    #[test]
    fn states_fit_or_not() {
        let old = peer("old", Scope::Set(1), &[], &[(7, 2)]);
        let with = |scope, states: &[(u64, u32)]| said(&peer("new", scope, &[], states), std::slice::from_ref(&old));
        assert_eq!(with(Scope::Set(1), &[(7, 2)]), [""; 0]);
        assert_eq!(with(Scope::Set(1), &[(7, 3)]), [""; 0]);
        assert_eq!(
            with(Scope::Set(1), &[(7, 1)]),
            ["error: `new` has version 1 of state 7, and `old` has version 2 [state-too-old]"]
        );
        assert_eq!(
            with(Scope::Set(2), &[(7, 2)]),
            ["error: `new` and `old` are of different sets and both have state 7 [state-conflict]"]
        );
        let dropped =
            ["error: `new` replaces `old` and does not have its state 7, which nothing would undo [state-dropped]"];
        assert_eq!(with(Scope::Set(1), &[]), dropped);
        assert_eq!(with(Scope::Set(2), &[]), [""; 0]);
        let mut undone = old.clone();
        undone.states.as_mut().unwrap()[0].shadow = true;
        assert_eq!(said(&peer("new", Scope::Set(1), &[], &[]), &[undone]), [""; 0]);
    }

    /// One at a time, and each name once.
    #[test]
    fn names_and_transitions() {
        let mut old = peer("fix", Scope::Set(1), &[], &[]);
        let new = peer("fix", Scope::Set(1), &[], &[]);
        assert_eq!(
            said(&new, std::slice::from_ref(&old)),
            ["error: a livepatch `fix` is loaded already [already-loaded]"]
        );
        old.name = "old".to_owned();
        old.in_transition = true;
        assert_eq!(
            said(&new, &[old]),
            ["error: `old` is in transition, and the kernel enables one livepatch at a time [in-transition]"]
        );
    }

    /// What sysfs shows of a loaded livepatch stays, whatever its file lacks; the file adds what sysfs does not show.
    #[test]
    fn a_file_adds_to_sysfs() {
        let sysfs = || Peer { states: None, in_transition: true, ..peer("old", Scope::Set(1), &[("shown", 1)], &[]) };
        let new = peer("new", Scope::Set(2), &[("shown", 0)], &[]);
        let conflict = "error: vmlinux: `new` of set 2 and `old` of set 1 both replace `shown,1` [function-conflict]";
        let with = |file: Peer| {
            let mut known = sysfs();
            known.learn(file);
            assert!(known.in_transition);
            known
        };
        let unread = with(Peer { objects: None, states: None, ..peer("old", Scope::Unknown, &[], &[]) });
        assert_eq!((unread.scope, &unread.states), (Scope::Set(1), &None));
        assert!(said(&new, &[unread]).contains(&conflict.to_owned()));
        let read = with(peer("old", Scope::Set(3), &[("shown", 0), ("more", 0)], &[(7, 1)]));
        assert_eq!(read.scope, Scope::Set(1), "the kernel says which set it is");
        let functions: Vec<&str> = read.functions().map(|(_, f)| f.function.as_str()).collect();
        assert_eq!((functions, read.states.as_ref().map(Vec::len)), (vec!["shown", "more"], Some(1)));
    }

    /// What cannot be read is never "nothing": a new livepatch is refused for it, a loaded one is warned of.
    #[test]
    fn unknown_objects() {
        let fine = peer("fine", Scope::Set(1), &[("f", 0)], &[]);
        let unread = Peer { objects: None, ..peer("unread", Scope::Set(2), &[], &[]) };
        assert_eq!(
            said(&unread, std::slice::from_ref(&fine)),
            [
                "error: what `unread` replaces cannot be read: its tables are of no form that is understood [objects-unknown]"
            ]
        );
        assert_eq!(
            said(&fine, &[unread]),
            ["warning: what `unread` replaces cannot be read, so `fine` was not held against it [objects-unknown]"]
        );
    }

    /// What was replaced meets nobody any more: a third livepatch is held against the second, not the first.
    #[test]
    fn replaced_ones_are_gone() {
        let mut peers = vec![peer("a", Scope::Set(1), &[("f", 0)], &[]), peer("b", Scope::Set(2), &[("g", 0)], &[])];
        let new = peer("c", Scope::Set(1), &[("h", 0)], &[]);
        assert_eq!(replace(&new, &mut peers), ["a"]);
        assert_eq!(peers.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["b"]);
    }
}

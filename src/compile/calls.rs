//! What a text hands to macros, and what it pastes together: the terms that [`super::reader`] finds and [`super::arrivals`] follows.

/// What can stand in an argument. `W` is a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item<W> {
    Word(W),
    /// A parameter, by its place.
    Param(usize),
    /// What a paste makes, by its place.
    Paste(usize),
    /// What a call turns into, by its place; beside what is called.
    Call(usize),
    /// What a call of this macro turns into, whatever it is handed; beside its name.
    Became(W),
}

/// What may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head<W> {
    Item(Item<W>),
    /// What a call, by its place, turns into.
    Result(usize),
}

/// One argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arg<W> {
    /// What can stand first or last when it has become what it becomes, also of a part between commas: only
    /// that is pasted or called.
    pub(super) edges: Vec<Item<W>>,
    /// All that stands in it, at any depth.
    pub(super) items: Vec<Item<W>>,
    /// Those outside of parentheses: they may turn into several arguments.
    pub(super) top: Vec<Item<W>>,
    /// Something that is none of these stands in it, too.
    pub(super) has_more: bool,
}

impl<W> Default for Arg<W> {
    fn default() -> Arg<W> {
        Arg { edges: Vec::new(), items: Vec::new(), top: Vec::new(), has_more: false }
    }
}

impl<W: Copy> Arg<W> {
    /// Nobody knows which of these stand where.
    pub(super) fn of(items: Vec<Item<W>>) -> Arg<W> {
        Arg { edges: items.clone(), top: items.clone(), items, has_more: false }
    }
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call<W> {
    pub(super) heads: Vec<Head<W>>,
    pub(super) args: Vec<Arg<W>>,
    /// Nobody knows which argument is which: all stands in the first.
    pub(super) mixed: bool,
}

/// What a text does with macros.
#[derive(Debug, Clone)]
pub(super) struct Calls<W> {
    pub(super) calls: Vec<Call<W>>,
    /// Words and parameters between which `##` stands.
    pub(super) pastes: Vec<Vec<Item<W>>>,
    /// The whole of it, as if it were an argument.
    pub(super) whole: Arg<W>,
    /// What parentheses behind the text would call.
    pub(super) tail: Vec<Head<W>>,
    /// A comma stands outside of parentheses.
    pub(super) has_comma: bool,
    /// Parentheses of a call that matters are not closed.
    pub(super) is_open: bool,
}

impl<W> Default for Calls<W> {
    fn default() -> Calls<W> {
        Calls { calls: vec![], pastes: vec![], whole: Arg::default(), tail: vec![], has_comma: false, is_open: false }
    }
}

/// What is known of macros when a text is read.
pub(super) trait Known<'t> {
    /// Whether a word may turn into nothing.
    fn may_vanish(&self, word: &[u8]) -> bool;
    /// Whether a word is a macro.
    fn is_macro(&self, word: &[u8]) -> bool;
    /// The macros whose names end in this word: `m##x` makes `mf` of `x` when that is `f(1)`, and the parentheses call it.
    fn ending_in(&self, word: &[u8]) -> Vec<&'t [u8]>;
    /// Whether it matters what these are handed.
    fn matters(&self, heads: &[Head<&[u8]>]) -> bool;
}

//! Reads a text's macro calls and pastes, one word after the other.
//!
//! In: a file, or a macro's replacement with its parameters. Out: [`Calls`]. Hard because a call is whatever parentheses follow:
//! behind a parameter, a paste, another call, or a macro that turns into nothing; and because `#if` may split the
//! parentheses of a file.

mod ends;

use std::ops::Range;

use super::calls::{Arg, Call, Calls, Item, Known};
use super::items::is_word;

/// What has been seen on one level of parentheses, from the last thing on that cannot be part of a call.
enum Seen<'t> {
    Item(Item<&'t [u8]>),
    /// Parentheses: the call that they belong to, if it matters, and the edges of all that stands between their commas.
    Closed(Option<usize>, Vec<Item<&'t [u8]>>),
    /// What is before it need not be there, or what is behind it.
    Directive,
}

/// Open parentheses.
struct Level<'t> {
    seen: Vec<Seen<'t>>,
    call: Option<usize>,
    start: usize,
    /// Of parts that are done, and what stands first in the one at hand.
    edges: Vec<Item<&'t [u8]>>,
    /// Where those of the part at hand begin.
    part: usize,
    /// What comes next may stand first.
    is_first: bool,
    /// What came last may stand first.
    was_first: bool,
}

impl Level<'_> {
    fn new(call: Option<usize>, start: usize) -> Self {
        Level { seen: Vec::new(), call, start, edges: Vec::new(), part: 0, is_first: true, was_first: false }
    }
}

/// Reads a text of logical lines, without comments ([`super::plain`]).
pub(super) fn read<'t>(text: &'t [u8], params: &[&[u8]], is_file: bool, known: &dyn Known<'t>) -> Calls<&'t [u8]> {
    let mut reader = Reader {
        text,
        params,
        known,
        out: Calls::default(),
        levels: vec![Level::new(None, 0)],
        spans: Vec::new(),
        directives: Vec::new(),
        conditions: Vec::new(),
        uneven: Vec::new(),
        depth: 0,
    };
    reader.all(is_file);
    reader.finish(is_file)
}

struct Reader<'t, 'k> {
    text: &'t [u8],
    params: &'k [&'k [u8]],
    known: &'k dyn Known<'t>,
    out: Calls<&'t [u8]>,
    levels: Vec<Level<'t>>,
    /// Where each call's parentheses are.
    spans: Vec<Range<usize>>,
    directives: Vec<usize>,
    /// Open `#if`: where, at what depth, and whether a branch ended at another.
    conditions: Vec<(usize, i64, bool)>,
    /// Where branches do not close what they open.
    uneven: Vec<Range<usize>>,
    depth: i64,
}

impl<'t> Reader<'t, '_> {
    fn all(&mut self, is_file: bool) {
        let mut at = 0;
        let mut line_start = is_file;
        while at < self.text.len() {
            let byte = self.text[at];
            let was_start = std::mem::replace(&mut line_start, false);
            match byte {
                b'\n' => line_start = is_file,
                b' ' | b'\t' | b'\r' => line_start = was_start,
                b'#' if was_start => {
                    at = self.directive(at);
                    continue;
                }
                b'"' | b'\'' => {
                    self.other();
                    at = literal_end(self.text, at);
                    continue;
                }
                b'(' => self.open(at),
                b')' => self.close(at),
                b',' => self.comma(),
                _ if is_word(byte) => {
                    at = self.word(at);
                    continue;
                }
                _ => self.other(),
            }
            at += 1;
        }
    }

    /// A directive's line ends what was seen, as far as anyone knows; what it defines is read elsewhere.
    fn directive(&mut self, at: usize) -> usize {
        let end = memchr::memchr(b'\n', &self.text[at..]).map_or(self.text.len(), |length| at + length);
        let name = self.text[at + 1..end].trim_ascii_start();
        self.directives.push(at);
        self.level().seen.push(Seen::Directive);
        if name.starts_with(b"if") {
            self.conditions.push((at, self.depth, false));
        } else if (name.starts_with(b"el") || name.starts_with(b"endif"))
            && let Some((start, depth, is_uneven)) = self.conditions.last_mut()
        {
            *is_uneven |= *depth != self.depth;
            if name.starts_with(b"endif") {
                if *is_uneven {
                    self.uneven.push(*start..end);
                }
                self.conditions.pop();
            }
        }
        end
    }

    /// A word, with the pastes that begin with it.
    fn word(&mut self, start: usize) -> usize {
        let (first, mut end) = self.word_at(start);
        let mut pieces = Vec::new();
        while let Some(next) = self.pasted(end) {
            if pieces.is_empty() {
                pieces.push(self.item(first));
            }
            let (word, after) = self.word_at(next);
            pieces.push(self.item(word));
            end = after;
        }
        if pieces.is_empty() {
            // `#x` is a string.
            let item = self.item(first);
            match item {
                Item::Param(_)
                    if self.text[..start].trim_ascii_end().ends_with(b"#") && !self.is_paste_before(start) =>
                {
                    self.other();
                }
                item => self.push(item),
            }
        } else {
            // What stands in the middle may be several words: then these are two pastes.
            let middle = (1..pieces.len().saturating_sub(1)).filter(|at| matches!(pieces[*at], Item::Param(_)));
            let parts = middle.flat_map(|at| [pieces[..=at].to_vec(), pieces[at..].to_vec()]);
            self.out.pastes.extend(parts.collect::<Vec<_>>());
            self.out.pastes.push(pieces);
            self.push(Item::Paste(self.out.pastes.len() - 1));
        }
        end
    }

    fn is_paste_before(&self, at: usize) -> bool {
        self.text[..at].trim_ascii_end().ends_with(b"##")
    }

    fn word_at(&self, start: usize) -> (&'t [u8], usize) {
        let length = self.text[start..].iter().position(|byte| !is_word(*byte)).unwrap_or(self.text.len() - start);
        (&self.text[start..start + length], start + length)
    }

    /// Where the word starts that `##` adds to what ends here.
    fn pasted(&self, end: usize) -> Option<usize> {
        let blanks = |at: usize| at + self.text[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let at = blanks(end);
        let at = self.text[at..].starts_with(b"##").then(|| blanks(at + 2))?;
        self.text.get(at).is_some_and(|byte| is_word(*byte)).then_some(at)
    }

    fn item(&self, word: &'t [u8]) -> Item<&'t [u8]> {
        self.params.iter().position(|param| *param == word).map_or(Item::Word(word), Item::Param)
    }

    fn push(&mut self, item: Item<&'t [u8]>) {
        // What follows may turn into parentheses.
        let may_open = match item {
            Item::Word(word) => self.known.is_macro(word),
            _ => true,
        };
        if may_open {
            let heads = self.heads();
            if self.matters(&heads) {
                self.out.calls.push(Call { heads, args: vec![Arg::of(vec![item])], mixed: true });
                self.spans.push(0..0);
                let call = Item::Call(self.out.calls.len() - 1);
                self.level().edges.push(call);
            }
        }
        let deepest = self.levels.len().saturating_sub(1);
        for (depth, level) in self.levels.iter().enumerate() {
            let arg = match level.call {
                Some(call) => self.out.calls[call].args.last_mut(),
                None => (depth == 0).then_some(&mut self.out.whole),
            };
            if let Some(arg) = arg {
                arg.items.push(item);
                arg.top.extend((depth == deepest).then_some(item));
            }
        }
        let may_vanish = self.may_vanish(&item);
        let level = self.level();
        level.seen.push(Seen::Item(item));
        level.was_first = level.is_first;
        if level.is_first {
            level.edges.push(item);
            level.is_first = may_vanish;
        }
    }

    fn level(&mut self) -> &mut Level<'t> {
        if self.levels.is_empty() {
            self.levels.push(Level::new(None, 0));
        }
        let last = self.levels.len() - 1;
        &mut self.levels[last]
    }

    fn other(&mut self) {
        for call in self.levels.iter().filter_map(|level| level.call) {
            self.out.calls[call].args.iter_mut().last().into_iter().for_each(|arg| arg.has_more = true);
        }
        let level = self.level();
        level.seen.clear();
        (level.is_first, level.was_first) = (false, false);
    }

    /// Ends what stands between two commas.
    fn end_part(&mut self) {
        let last = self.last();
        let is_whole = self.levels.len() == 1;
        let level = self.level();
        level.edges.extend(last);
        let part = level.edges[level.part..].to_vec();
        (level.part, level.is_first, level.was_first) = (level.edges.len(), true, false);
        match level.call {
            Some(call) => {
                self.out.calls[call].args.iter_mut().last().into_iter().for_each(|arg| arg.edges = part.clone())
            }
            None if is_whole => self.out.whole.edges.extend(part),
            None => {}
        }
    }

    fn open(&mut self, at: usize) {
        let mut heads = self.heads();
        // What is pasted to the beginning of an argument is called by the parentheses in it.
        if self.levels.last().is_some_and(|level| level.call.is_some() && level.was_first) {
            heads.extend(self.pasted_before(&heads));
        }
        let call = self.matters(&heads).then(|| {
            self.out.calls.push(Call { heads, args: vec![Arg::default()], mixed: false });
            self.spans.push(at..usize::MAX);
            self.out.calls.len() - 1
        });
        let level = self.level();
        level.was_first |= level.is_first && level.seen.is_empty();
        level.is_first &= !level.seen.is_empty();
        self.levels.push(Level::new(call, at));
        self.depth += 1;
    }

    fn close(&mut self, at: usize) {
        self.depth -= 1;
        if self.levels.len() < 2 {
            self.other();
            return;
        }
        self.end_part();
        let Some(level) = self.levels.pop() else { return };
        if let Some(call) = level.call {
            self.spans[call] = level.start..at + 1;
        }
        let first = match self.levels.last() {
            Some(around) if around.was_first => match around.seen.last() {
                Some(Seen::Item(head)) => self.became(head, level.call, &level.edges),
                _ => level.edges.clone(),
            },
            _ => Vec::new(),
        };
        let becomes = match (level.call, self.levels.last().and_then(|around| around.seen.last())) {
            (Some(call), _) => Some(Item::Call(call)),
            (None, Some(Seen::Item(Item::Word(word)))) if self.known.is_macro(word) => Some(Item::Became(*word)),
            _ => None,
        };
        let arg = match self.levels.last().map(|around| around.call) {
            Some(Some(call)) => self.out.calls[call].args.last_mut(),
            Some(None) if self.levels.len() == 1 => Some(&mut self.out.whole),
            _ => None,
        };
        arg.into_iter().for_each(|arg| arg.top.extend(becomes));
        let around = self.level();
        around.edges.extend(first);
        around.seen.push(Seen::Closed(level.call, level.edges));
    }

    fn comma(&mut self) {
        self.end_part();
        self.level().seen.clear();
        self.out.has_comma |= self.levels.len() < 2;
        if let Some(call) = self.levels.last().and_then(|level| level.call) {
            self.out.calls[call].args.push(Arg::default());
        }
    }

    fn finish(mut self, is_file: bool) -> Calls<&'t [u8]> {
        if !is_file {
            self.end_part();
            if self.levels.len() > 1 {
                self.out.whole.edges = self.out.whole.items.clone();
            }
            self.out.is_open = self.levels.iter().any(|level| level.call.is_some());
            self.out.tail = self.heads();
            return self.out;
        }
        let all = || self.out.whole.items.clone();
        let whole: Vec<bool> = self
            .spans
            .iter()
            .map(|span| {
                let meets = |other: &Range<usize>| span.start < other.end && other.start < span.end;
                span.end == usize::MAX || self.uneven.iter().any(meets)
            })
            .collect();
        let all = if whole.contains(&true) { all() } else { Vec::new() };
        for ((call, span), whole) in self.out.calls.iter_mut().zip(&self.spans).zip(whole) {
            if whole {
                call.args = vec![Arg::of(all.clone())];
                call.mixed = true;
            } else if self.directives.iter().any(|at| span.contains(at)) {
                call.args = vec![Arg::of(call.args.iter().flat_map(|arg| &arg.items).copied().collect())];
                call.mixed = true;
            }
        }
        self.out
    }
}

/// One past the literal that starts here, or past its quote if it stands alone, as in assembly.
fn literal_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != b'\n' {
        match text[at] {
            b'\\' => at += 2,
            byte if byte == text[start] => return at + 1,
            _ => at += 1,
        }
    }
    start + 1
}

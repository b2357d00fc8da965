//! The hunks of one file -> which of them belong together.
//!
//! Between two point releases one file often gets several fixes, and no history says where one ends. Hunks are kept
//! together whenever anything speaks for it: they lie in one function, a name comes or goes in both, or one declares what the
//! other uses on a changed line. That puts fixes together which have nothing to do with each other, rather than tear one apart.

use std::collections::BTreeSet;

use super::pieces::Piece;

/// The hunks of each fix, by their numbers.
pub type Fixes = Vec<BTreeSet<usize>>;

/// Parts the hunks of one file.
pub fn apart(pieces: &[Piece]) -> Fixes {
    let mut fixes = Fixes::new();
    let (includes, others): (Vec<usize>, Vec<usize>) = (0..pieces.len()).partition(|at| pieces[*at].only_includes);
    for at in others {
        let (with, apart): (Vec<_>, Vec<_>) =
            fixes.into_iter().partition(|fix| fix.iter().any(|other| are_tied(&pieces[*other], &pieces[at])));
        fixes = apart;
        fixes.push(with.into_iter().flatten().chain([at]).collect());
    }
    if fixes.is_empty() {
        fixes.push(BTreeSet::new());
    }
    // Which of them an included file is for cannot be told; it does no harm to the others.
    fixes.iter_mut().for_each(|fix| fix.extend(&includes));
    fixes.sort();
    fixes
}

fn are_tied(one: &Piece, other: &Piece) -> bool {
    let declares = |a: &Piece, b: &Piece| !a.names.brought.is_disjoint(&b.names.used);
    !one.functions.is_disjoint(&other.functions)
        || !one.moved.is_disjoint(&other.moved)
        || declares(one, other)
        || declares(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::releases::pieces::pieces_of;

    /// Calls that come in two functions keep them together, as does a new argument whoever passes it; an included file is
    /// everybody's; functions that have only C's words in common are apart.
    #[test]
    fn hunks_of_one_fix() {
        let before = "#include <a.h>\n\n\n\nint f(int a)\n{\n\treturn 1;\n}\nint g(int a)\n{\n\treturn 2;\n}\nint h(int a)\n{\n\treturn 3;\n}\n";
        let apart = |after: &str| apart(&pieces_of(before, after)).iter().map(BTreeSet::len).collect::<Vec<_>>();
        let with =
            |f: &str, g: &str, h: &str| before.replace("return 1;", f).replace("return 2;", g).replace("return 3;", h);
        assert_eq!(apart(&with("if (a) return 5;", "return 6;", "return 7;")), [1, 1, 1]);
        assert_eq!(apart(&with("get(x);", "put(y);", "get(z);")), [2, 1]);
        assert_eq!(apart(&with("get(x);", "return 2;", "return 7;").replace("a.h>", "a.h>\n#include <b.h>")), [2, 2]);
        let argument = with("return 1;", "return 2;", "return g(a, 1);").replace("int g(int a)", "int g(int a, int b)");
        assert_eq!(apart(&argument), [2]);
    }
}

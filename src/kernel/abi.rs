//! Which livepatch interface a kernel has: its `include/linux/livepatch.h` and configuration in, facts out.
//!
//! Distributions backport, so the version says nothing: the members of the structures decide. The header is
//! read as C: comments go, conditionals are evaluated against the configuration, members are split at the
//! structure's own level. A mention of `replace_set` in a comment or under a disabled `#ifdef` does not count.

use anyhow::{Result, bail};

use super::config::Config;

/// How a patch says what it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// `unsigned int replace_set`: a patch replaces those of its set.
    Set,
    /// `bool replace`: all patches or none.
    Boolean,
    /// Neither (before 5.1).
    None,
}

/// The livepatch interface of one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abi {
    /// Member of `struct klp_patch` that selects what is replaced.
    pub replace: Replace,
    /// `struct klp_patch` has `states` (since 5.5).
    pub states: bool,
    /// `struct klp_state` has `callbacks`: per-state callbacks.
    pub state_callbacks: bool,
    /// `struct klp_state` says whether it owns a shadow variable, by a member named `is_shadow`.
    pub state_shadow: bool,
    /// `struct klp_object` has `callbacks`: per-object callbacks.
    pub object_callbacks: bool,
    /// `struct klp_func` has `old_sympos`.
    pub old_sympos: bool,
    /// The interface declares `klp_shadow_alloc`.
    pub shadow: bool,
}

impl Abi {
    /// Reads the interface from the text of `include/linux/livepatch.h`.
    pub fn parse(header: &str, config: &Config) -> Result<Abi> {
        let code = preprocess(&strip_comments(header), config);
        let Some(patch) = members(&code, "klp_patch") else {
            bail!("no definition of `struct klp_patch`");
        };
        let has = |members: &[String], name: &str| members.iter().any(|m| m == name);
        let of = |name: &str| members(&code, name).unwrap_or_default();
        let state = of("klp_state");
        Ok(Abi {
            replace: match (has(&patch, "replace_set"), has(&patch, "replace")) {
                (true, _) => Replace::Set,
                (false, true) => Replace::Boolean,
                (false, false) => Replace::None,
            },
            states: has(&patch, "states"),
            state_callbacks: has(&state, "callbacks"),
            state_shadow: has(&state, "is_shadow"),
            object_callbacks: has(&of("klp_object"), "callbacks"),
            old_sympos: has(&of("klp_func"), "old_sympos"),
            shadow: code.contains("klp_shadow_alloc"),
        })
    }
}

/// The text with each comment replaced by a space; newlines stay, line continuations are joined.
fn strip_comments(text: &str) -> String {
    let text = text.replace("\\\n", " ");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("/*") {
            let end = rest[2..].find("*/").map_or(rest.len(), |i| i + 4);
            out.push(' ');
            out.extend(rest[..end].chars().filter(|c| *c == '\n'));
            rest = &rest[end..];
        } else if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// Keeps the lines whose conditionals hold under `config`; other macros count as not defined.
fn preprocess(text: &str, config: &Config) -> String {
    let mut out = String::with_capacity(text.len());
    // For each open conditional: (this branch holds, some branch held already, the outside holds).
    let mut stack: Vec<(bool, bool, bool)> = Vec::new();
    for line in text.lines() {
        let live = stack.last().is_none_or(|(now, _, _)| *now);
        let Some(directive) = line.trim_start().strip_prefix('#').map(str::trim) else {
            if live {
                out.push_str(line);
                out.push('\n');
            }
            continue;
        };
        let word_end = directive.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(directive.len());
        let (word, argument) = directive.split_at(word_end);
        match word {
            "if" | "ifdef" | "ifndef" => {
                let holds = match word {
                    "ifdef" => defined(argument.trim(), config),
                    "ifndef" => !defined(argument.trim(), config),
                    _ => Condition { rest: argument, config }.any(),
                };
                stack.push((live && holds, holds, live));
            }
            "elif" | "else" => {
                if let Some((now, before, outside)) = stack.pop() {
                    let _ = now;
                    let holds = !before && (word == "else" || Condition { rest: argument, config }.any());
                    stack.push((outside && holds, before || holds, outside));
                }
            }
            "endif" => drop(stack.pop()),
            _ => {}
        }
    }
    out
}

fn defined(name: &str, config: &Config) -> bool {
    match name.strip_suffix("_MODULE") {
        Some(module) if name.starts_with("CONFIG_") && config.get(module) == Some("m") => true,
        _ => name.starts_with("CONFIG_") && config.get(name).is_some_and(|v| v != "m" && v != "n"),
    }
}

/// A tiny evaluator for `#if`: `!`, `&&`, `||`, parentheses, `defined`, `IS_*`, numbers.
struct Condition<'a> {
    rest: &'a str,
    config: &'a Config,
}

impl Condition<'_> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn any(&mut self) -> bool {
        let mut value = self.all();
        while self.eat("||") {
            value |= self.all();
        }
        value
    }

    fn all(&mut self) -> bool {
        let mut value = self.one();
        while self.eat("&&") {
            value &= self.one();
        }
        value
    }

    fn one(&mut self) -> bool {
        if self.eat("!") {
            return !self.one();
        }
        if self.eat("(") {
            let value = self.any();
            self.eat(")");
            return value;
        }
        let word = self.word();
        match word.as_str() {
            "defined" | "IS_ENABLED" | "IS_BUILTIN" | "IS_MODULE" | "IS_REACHABLE" => {
                let parenthesis = self.eat("(");
                let name = self.word();
                if parenthesis {
                    self.eat(")");
                }
                match word.as_str() {
                    "IS_ENABLED" | "IS_REACHABLE" => self.config.is_enabled(&name),
                    "IS_BUILTIN" => self.config.is_y(&name),
                    "IS_MODULE" => self.config.get(&name) == Some("m"),
                    _ => defined(&name, self.config),
                }
            }
            number => number.parse::<u64>().is_ok_and(|n| n != 0),
        }
    }

    fn word(&mut self) -> String {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }
}

/// Names of the members that `struct <name> { ... }` has at its own level; `None` when it is not defined.
fn members(code: &str, name: &str) -> Option<Vec<String>> {
    let mut search = code;
    let body = loop {
        let at = search.find("struct ")?;
        search = &search[at + "struct ".len()..];
        let rest = search.trim_start();
        if let Some(rest) = rest.strip_prefix(name)
            && let Some(body) = rest.trim_start().strip_prefix('{')
        {
            break body;
        }
    };
    let (mut depth, mut member, mut names) = (0, String::new(), Vec::new());
    for c in body.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ';' if depth == 0 => {
                names.extend(member.split(',').filter_map(declared_name));
                member.clear();
            }
            c if depth == 0 => member.push(c),
            _ => {}
        }
    }
    Some(names)
}

/// The name that a declarator introduces: the one in `(*name)(...)`, else the last word before `[` or `:`.
fn declared_name(declarator: &str) -> Option<String> {
    let text = match declarator.find("(*") {
        Some(at) => declarator[at + 2..].split(')').next()?,
        None => declarator.split(['[', ':']).next()?,
    };
    let name = text.trim_end().rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abi(body: &str, config: &str) -> Abi {
        let header = format!(
            "#ifndef _H\n#define _H\n#if IS_ENABLED(CONFIG_LIVEPATCH)\n/* replace_set is not here */\n\
             struct klp_func {{ const char *old_name; unsigned long old_sympos; }};\n{body}\n#endif\n#endif\n"
        );
        Abi::parse(&header, &Config::parse(&format!("CONFIG_LIVEPATCH=y\n{config}")).unwrap()).unwrap()
    }

    /// Mainline's structure has the boolean, and a comment about sets does not make it a set.
    #[test]
    fn mainline() {
        let abi = abi(
            "struct klp_patch { struct klp_state *states; bool replace; // replace_set\n struct list_head l; };",
            "",
        );
        assert_eq!((abi.replace, abi.states, abi.old_sympos, abi.shadow), (Replace::Boolean, true, true, false));
    }

    /// With both behind an #ifdef the configuration decides; a wrong answer builds a module that corrupts.
    #[test]
    fn conditional() {
        let body = "struct klp_state { unsigned long id; struct klp_state_callbacks callbacks; bool is_shadow; };\n\
            struct klp_patch {\n#ifdef CONFIG_LIVEPATCH_REPLACE_SET\n unsigned int replace_set;\n#else\n bool replace;\n#endif\n};";
        assert_eq!(abi(body, "CONFIG_LIVEPATCH_REPLACE_SET=y\n").replace, Replace::Set);
        assert_eq!(abi(body, "").replace, Replace::Boolean);
        assert!(abi(body, "").state_callbacks && abi(body, "").state_shadow);
    }

    /// A header without the structure is an error, not "no replace".
    #[test]
    fn missing() {
        assert!(Abi::parse("struct klp_patch;\n", &Config::parse("CONFIG_A=y").unwrap()).is_err());
    }

    /// Nested structures do not lend their members to the outer one.
    #[test]
    fn nesting() {
        let abi = abi("struct klp_patch { struct { int replace; } inner; int (*states)(int replace_set); };", "");
        assert_eq!((abi.replace, abi.states), (Replace::None, true));
    }
}

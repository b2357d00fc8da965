//! Fills `templates/init.c`: the only place that writes C.
//!
//! In: per object, the functions and callbacks with the labels they have in the link. Out: the text.
//! Static tables in ordinary kernel C, no helper that only some kernels have, so that one template
//! serves every kernel; which member selects what is replaced comes from the kernel's own header.

use std::fmt::Write;

use super::states::State;

/// What goes into the tables for one kernel object.
#[derive(Debug, Clone, Default)]
pub struct ObjectTable {
    /// `vmlinux` or a module's name.
    pub object: String,
    /// (old name, sympos, label of the new function).
    pub functions: Vec<(String, u32, String)>,
    /// (member of `struct klp_callbacks`, label of the function).
    pub callbacks: Vec<(String, String)>,
}

/// What the patch replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplaceMode {
    /// `.replace_set = n`.
    Set(u32),
    /// `.replace = true`.
    All,
    /// Neither member is set.
    Nothing,
}

/// What lets the module be removed.
const EXIT: &str = "\
/* Disabling comes first, through sysfs: the module cannot be removed while it is in use. */
static void __exit livepatch_exit(void)
{
}
module_exit(livepatch_exit);
";

/// A module with an init function and no exit function cannot be removed (kernel/module/main.c, `delete_module`).
const NO_EXIT: &str = "/* It is never removed: the kernel may hold the address of a table in it. */\n";

/// Fills the template; a module that `stays` can be disabled, and not removed.
pub fn render(
    module: &str,
    description: &str,
    tables: &[ObjectTable],
    states: &[State<String>],
    replace: ReplaceMode,
    stays: bool,
    info: &[(String, String)],
) -> String {
    let mut declarations = String::new();
    let mut text = String::new();
    let mut objects = String::new();
    for (i, table) in tables.iter().enumerate() {
        let _ = writeln!(text, "static struct klp_func functions_{i}[] = {{");
        for (j, (old_name, sympos, label)) in table.functions.iter().enumerate() {
            let _ = writeln!(declarations, "extern char klp_function_{i}_{j}[] asm({});", quoted(label));
            let _ = write!(text, "\t{{ .old_name = {}, .new_func = klp_function_{i}_{j}", quoted(old_name));
            if *sympos > 0 {
                let _ = write!(text, ", .old_sympos = {sympos}");
            }
            let _ = writeln!(text, " }},");
        }
        let _ = writeln!(text, "\t{{ }}\n}};\n");
        let _ = writeln!(objects, "\t{{");
        if table.object != "vmlinux" {
            let _ = writeln!(objects, "\t\t.name = {},", quoted(&table.object));
        }
        let _ = writeln!(objects, "\t\t.funcs = functions_{i},");
        for (member, label) in &table.callbacks {
            let argument = "struct klp_object *object";
            let result = if member == "pre_patch" { "int" } else { "void" };
            let _ = writeln!(declarations, "extern {result} klp_{member}_{i}({argument}) asm({});", quoted(label));
            let _ = writeln!(objects, "\t\t.callbacks.{member} = klp_{member}_{i},");
        }
        let _ = writeln!(objects, "\t}},");
    }
    let states = states_table(states, &mut declarations, &mut text);
    let replace = match replace {
        ReplaceMode::Set(set) => format!("\t.replace_set = {set},\n"),
        ReplaceMode::All => "\t.replace = true,\n".to_owned(),
        ReplaceMode::Nothing => String::new(),
    };
    let info: String = info.iter().map(|(key, value)| format!("MODULE_INFO({key}, {});\n", quoted(value))).collect();
    let template = include_str!("../../templates/init.c");
    // The template's own head says who holds the licence of the text; placeholders are replaced once each.
    template
        .replace("@MODULE@", &comment(module))
        .replace("@DECLARATIONS@", &declarations)
        .replace("@TABLES@", &text)
        .replace("@OBJECTS@", &objects)
        .replace("@STATES@", states)
        .replace("@REPLACE@", &replace)
        .replace("@EXIT@\n", if stays { NO_EXIT } else { EXIT })
        .replace("\"@DESCRIPTION@\"", &quoted(description))
        .replace("@INFO@\n", &info)
}

/// Writes the table of states, which ends with an entry of zeroes (include/linux/livepatch.h); the member that names it.
fn states_table(states: &[State<String>], declarations: &mut String, text: &mut String) -> &'static str {
    if states.is_empty() {
        return "";
    }
    let _ = writeln!(text, "static struct klp_state states[] = {{");
    for (i, state) in states.iter().enumerate() {
        let _ = write!(text, "\t{{ .id = {}, .version = {}", state.id, state.version);
        if state.is_shadow {
            text.push_str(", .is_shadow = true");
        }
        for (member, label) in &state.functions {
            let (result, arguments) = match *member {
                "shadow_dtor" => ("void", "void *obj, void *shadow_data"),
                "pre_patch" => ("int", "struct klp_patch *patch, struct klp_state *state"),
                _ => ("void", "struct klp_patch *patch, struct klp_state *state"),
            };
            let name = format!("klp_state_{member}_{i}");
            let _ = writeln!(declarations, "extern {result} {name}({arguments}) asm({});", quoted(label));
            let _ = write!(text, ", .callbacks.{member} = {name}");
        }
        text.push_str(" },\n");
    }
    text.push_str("\t{ }\n};\n\n");
    "\t.states = states,\n"
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn comment(text: &str) -> String {
    text.replace("*/", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> ObjectTable {
        ObjectTable {
            object: "ext4".into(),
            functions: vec![("fill.isra.0".into(), 2, "fill.isra.0".into())],
            callbacks: vec![("pre_patch".into(), "prepare".into())],
        }
    }

    /// Protects the meaning of `-s`: the number reaches the module, and only on kernels that have it.
    #[test]
    fn replace_member() {
        let with = |mode| render("livepatch-x", "x", &[table()], &[], mode, false, &[]);
        assert!(with(ReplaceMode::Set(7)).contains("\t.replace_set = 7,\n"));
        assert!(with(ReplaceMode::All).contains("\t.replace = true,\n"));
        assert!(!with(ReplaceMode::Nothing).contains(".replace"));
    }

    /// Protects who holds an address in the module: without an exit function it is never removed.
    #[test]
    fn a_module_that_stays() {
        let with = |stays| render("livepatch-x", "x", &[table()], &[], ReplaceMode::All, stays, &[]);
        assert!(with(false).contains("module_exit(livepatch_exit);"));
        assert!(!with(true).contains("exit"));
        assert!(with(true).contains("module_init(livepatch_init);"));
    }

    /// Protects the tables: names with dots through labels, positions, objects by name, callbacks.
    #[test]
    fn tables() {
        let text =
            render("livepatch-x", "say \"x\"", &[table()], &[], ReplaceMode::All, false, &[("k".into(), "v".into())]);
        assert!(text.contains("extern char klp_function_0_0[] asm(\"fill.isra.0\");"));
        assert!(text.contains(".old_name = \"fill.isra.0\", .new_func = klp_function_0_0, .old_sympos = 2 },"));
        assert!(text.contains(".name = \"ext4\","));
        assert!(text.contains(".callbacks.pre_patch = klp_pre_patch_0,"));
        assert!(text.contains("MODULE_DESCRIPTION(\"say \\\"x\\\"\");"));
        assert!(text.contains("MODULE_INFO(k, \"v\");"));
        assert!(!text.contains('@'), "{text}");
    }

    /// Protects the table of states: identity, version, callbacks by label, and no table where there are none.
    #[test]
    fn states() {
        let functions = [("pre_patch", "widen".to_owned()), ("shadow_dtor", "drop.klp1".to_owned())].into();
        let state = State { id: 7, version: 2, is_shadow: true, functions };
        let text = render("livepatch-x", "x", &[table()], &[state], ReplaceMode::Nothing, false, &[]);
        let entry = ".id = 7, .version = 2, .is_shadow = true, .callbacks.pre_patch = klp_state_pre_patch_0, \
                     .callbacks.shadow_dtor = klp_state_shadow_dtor_0 },";
        assert!(text.contains(entry), "{text}");
        assert!(text.contains("asm(\"drop.klp1\");") && text.contains("\t.states = states,\n"), "{text}");
        assert!(!render("x", "x", &[table()], &[], ReplaceMode::Nothing, false, &[]).contains("states"));
    }
}

//! Which of several symbols of one name is the unit's.

use super::*;

fn symbol(name: &str, address: u64, binding: Binding, kind: Kind, file: Option<u32>) -> KernelSymbol {
    let size = file.map(|_| 16);
    KernelSymbol { name: name.to_owned(), address, size, binding, kind, file, init: false, section: None }
}

fn func(name: &str, size: u64) -> UnitSymbol {
    UnitSymbol { name: name.to_owned(), size, kind: Kind::Func, weak: false }
}

fn unit(file: &str, locals: &[&str], globals: &[&str]) -> UnitSymbols {
    let list = |names: &[&str]| names.iter().map(|name| func(name, 16)).collect();
    let functions = vec![locals.iter().chain(globals).map(|name| (*name).to_owned()).collect()];
    UnitSymbols { file: file.to_owned(), locals: list(locals), globals: list(globals), functions }
}

fn wanted(name: &str, binding: Binding) -> Wanted<'_> {
    Wanted { name, binding, size: Some(16), kind: Kind::Func }
}

fn located(location: Location) -> (u32, u64, Evidence) {
    match location {
        Location::Located(located) => (located.index, located.sympos, located.by),
        other => panic!("{other:?}"),
    }
}

/// A global that shares its name with locals gets its true position, not 0 (field survey, defect 15).
#[test]
fn global_among_locals() {
    use Binding::{Global, Local};
    let list = vec![symbol("event", 0, Local, Kind::Func, Some(0)), symbol("event", 16, Global, Kind::Func, None)];
    let table = SymbolTable::new(list, vec!["a.c".to_owned()]);
    let unit = unit("b.c", &[], &["event"]);
    assert_eq!(located(table.locate(&unit, &wanted("event", Global), false)), (1, 2, Evidence::OnlyOne));
}

/// Same file name, same function name: the group's other locals decide; a foreign lone match is missing.
#[test]
fn file_groups() {
    use Binding::Local;
    let names = [("init", 0), ("alpha", 0), ("init", 1), ("beta", 1), ("lone", 2)];
    let list: Vec<KernelSymbol> =
        names.iter().enumerate().map(|(i, (n, f))| symbol(n, 16 * i as u64, Local, Kind::Func, Some(*f))).collect();
    let files = ["main.c", "main.c", "other.c"].map(str::to_owned).to_vec();
    let table = SymbolTable::new(list, files);
    let unit = unit("main.c", &["init", "beta", "lone"], &[]);
    assert_eq!(located(table.locate(&unit, &wanted("init", Local), false)), (2, 2, Evidence::FileGroup));
    assert_eq!(table.locate(&unit, &wanted("lone", Local), false), Location::Missing);
}

/// Two groups that cannot be told apart give no answer rather than the first.
#[test]
fn twins_are_ambiguous() {
    use Binding::Local;
    let list = vec![symbol("init", 0, Local, Kind::Func, Some(0)), symbol("init", 16, Local, Kind::Func, Some(1))];
    let table = SymbolTable::new(list, vec!["main.c".to_owned(); 2]);
    let answer = table.locate(&unit("main.c", &["init"], &[]), &wanted("init", Local), false);
    assert_eq!(answer, Location::Ambiguous { candidates: vec![0, 1] });
}

/// Without file symbols the neighbours decide, prefix symbols in between notwithstanding.
#[test]
fn neighbourhood() {
    use Binding::Local;
    let names = ["x", "show", "y", "__pfx_store", "store", "__pfx_show", "show", "probe", "z", "show"];
    let list: Vec<KernelSymbol> =
        names.iter().enumerate().map(|(i, n)| symbol(n, 16 * i as u64, Local, Kind::Func, None)).collect();
    let table = SymbolTable::new(list, Vec::new());
    let mine = unit("drv.c", &["store", "show", "probe"], &[]);
    assert_eq!(located(table.locate(&mine, &wanted("show", Local), false)), (6, 2, Evidence::Neighbours));
    let strangers = unit("drv.c", &["show"], &[]);
    assert!(matches!(table.locate(&strangers, &wanted("show", Local), false), Location::Ambiguous { .. }));
}

/// The next unit may begin with a function of the same name and size as one of ours that lies elsewhere (a cold one): only
/// where the unit has it beside the same function it is ours.
#[test]
fn first_of_the_next_unit() {
    use Binding::Local;
    let names = ["mine", "last", "__pfx_show", "show", "stranger", "cold", "show", "cold2"];
    let list: Vec<KernelSymbol> =
        names.iter().enumerate().map(|(i, n)| symbol(n, 16 * i as u64, Local, Kind::Func, None)).collect();
    let table = SymbolTable::new(list, Vec::new());
    let mut ours = unit("drv.c", &["mine", "last", "show"], &[]);
    assert_eq!(located(table.locate(&ours, &wanted("show", Local), false)), (3, 1, Evidence::Neighbours));
    ours.functions = [&["mine", "last"][..], &["show"]].map(|l| l.iter().map(|n| (*n).to_owned()).collect()).to_vec();
    assert!(matches!(table.locate(&ours, &wanted("show", Local), false), Location::Ambiguous { .. }));
}

/// A function that is shorter in the kernel than as compiled alone (a short jump) must not look like another
/// file's, which has more room. Of variables the size says enough.
#[test]
fn size_is_for_data() {
    use Binding::{Global, Local};
    let list = |kind| {
        vec![
            symbol("stranger", 0x1000, Global, kind, None),
            symbol("helper", 0x1040, Local, kind, None),
            symbol("mine", 0x1070, Global, kind, None),
            symbol("other", 0x1090, Global, kind, None),
            symbol("helper", 0x2000, Local, kind, None),
            symbol("other2", 0x2040, Global, kind, None),
        ]
    };
    let mine = unit("drv.c", &["helper"], &["mine"]);
    let wanted = |kind| Wanted { name: "helper", binding: Local, size: Some(50), kind };
    let functions = SymbolTable::new(list(Kind::Func), Vec::new());
    let found = functions.locate(&mine, &wanted(Kind::Func), false);
    assert_eq!(found, Location::Ambiguous { candidates: vec![1, 4] });
    let data = SymbolTable::new(list(Kind::Object), Vec::new());
    assert_eq!(located(data.locate(&mine, &wanted(Kind::Object), false)), (4, 2, Evidence::Size));
}

/// Around another unit's definition that overrides ours lie the other unit's symbols.
#[test]
fn overridden_weak_is_no_neighbour() {
    use Binding::{Global, Local, Weak};
    let list = |hook| {
        let names = ["a0", "helper", "arch_hook", "a1", "b0", "helper", "b1", "mine"];
        let all = names.iter().enumerate().map(|(i, name)| {
            let binding = if *name == "helper" { Local } else { Global };
            symbol(name, 16 * i as u64, if *name == "arch_hook" { hook } else { binding }, Kind::Func, None)
        });
        SymbolTable::new(all.collect(), Vec::new())
    };
    let mut mine = unit("generic.c", &["helper"], &["mine", "arch_hook"]);
    mine.globals[1].weak = true;
    mine.functions = vec![["helper", "arch_hook", "mine"].map(str::to_owned).to_vec()];
    let found = list(Global).locate(&mine, &wanted("helper", Local), false);
    assert_eq!(found, Location::Ambiguous { candidates: vec![1, 5] });
    // The weak one itself says where the unit is.
    assert_eq!(located(list(Weak).locate(&mine, &wanted("helper", Local), false)), (1, 1, Evidence::Neighbours));
}

/// A weak definition that another unit overrides is said to be so: carrying our copy would be wrong.
#[test]
fn overridden_weak() {
    let table = SymbolTable::new(vec![symbol("arch_hook", 0, Binding::Global, Kind::Func, None)], Vec::new());
    let unit = unit("a.c", &[], &["arch_hook"]);
    match table.locate(&unit, &wanted("arch_hook", Binding::Weak), false) {
        Location::Located(located) => assert!(located.overridden),
        other => panic!("{other:?}"),
    }
}

//! The layers of docs/architecture.md: a module imports only what stands below it, siblings do not import
//! each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// From the top down. Modules of one line are siblings.
const LAYERS: [&[&str]; 9] = [
    &["main"],
    &["cli"],
    &["app"],
    &["config"],
    &["web", "worker", "reconcile"],
    &["queue", "polyai", "archive"],
    &["telemetry", "lifecycle"],
    &["signature", "wav", "event", "retry"],
    &["secret", "clock", "health", "disk", "json"],
];

#[test]
fn every_module_imports_only_what_stands_below_it() {
    let rank = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (module, imports) in imports() {
        seen.insert(module.clone());
        let from = rank(&module).unwrap_or_else(|| panic!("{module} has no layer: give it one in LAYERS"));
        for (import, file) in imports {
            if import == "polyhook_simulator" {
                if module != "cli" {
                    wrong.push(format!("{}: only cli uses the simulator", file.display()));
                }
                continue;
            }
            let Some(to) = rank(&import) else { panic!("{}: what is crate::{import}?", file.display()) };
            if import != module && to <= from {
                wrong.push(format!("{}: {module} imports {import}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let declared: BTreeSet<_> = LAYERS.concat().into_iter().map(str::to_owned).collect();
    assert_eq!(seen, declared, "LAYERS names exactly the modules there are");
}

/// For each top-level module, the top-level modules that its product code names.
fn imports() -> BTreeMap<String, BTreeMap<String, PathBuf>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut imports: BTreeMap<String, BTreeMap<String, PathBuf>> = BTreeMap::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inside = path.strip_prefix(&src).unwrap();
            let module = inside.components().next().unwrap().as_os_str().to_string_lossy();
            let module = module.trim_end_matches(".rs").to_owned();
            if module == "lib" || path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let found = imports.entry(module).or_default();
            for name in named(&text) {
                found.entry(name).or_insert_with(|| inside.to_owned());
            }
        }
    }
    imports
}

/// The modules in `crate::module` and `crate::{module, …}`, in what comes before the unit tests.
fn named(text: &str) -> Vec<String> {
    let product: String = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut names = Vec::new();
    if product.contains("polyhook_simulator") {
        names.push("polyhook_simulator".to_owned());
    }
    for (at, _) in product.match_indices("crate::").chain(product.match_indices("polyhook::")) {
        let rest = &product[at..];
        let rest = &rest[rest.find("::").unwrap() + 2..];
        if let Some(group) = rest.strip_prefix('{') {
            names.extend(top_level_words(group));
        } else {
            names.push(word(rest));
        }
    }
    names.retain(|name| !name.is_empty() && name.starts_with(|first: char| first.is_ascii_lowercase()));
    names
}

/// The first words of a `{…}` group's items, at its own depth.
fn top_level_words(group: &str) -> Vec<String> {
    let mut words = vec![word(group.trim_start())];
    let mut depth = 0;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => words.push(word(group[at + 1..].trim_start())),
            _ => {}
        }
    }
    words
}

fn word(text: &str) -> String {
    text.chars().take_while(|character| character.is_ascii_alphanumeric() || *character == '_').collect()
}

#[test]
fn finds_imports_however_they_are_written() {
    let text = "use crate::{\n    clock::{Clock, x},\n    secret::Secret,\n};\nlet a = crate::event::read();\n// crate::app\n";
    assert_eq!(named(text), ["clock", "secret", "event"]);
}

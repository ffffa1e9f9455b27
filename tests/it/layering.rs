//! Checks the layers of docs/architecture.md: a module imports only modules of lower layers, and not its siblings.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The layers from top to bottom. Modules of one layer are siblings.
const LAYERS: [&[&str]; 13] = [
    &["main"],
    &["cli"],
    &["app"],
    &["config"],
    &["console"],
    &["status"],
    &["web", "worker", "reconcile"],
    &["index"],
    &["queue", "polyai", "archive"],
    &["telemetry", "lifecycle"],
    &["signature", "wav", "event", "retry"],
    &["secret", "clock", "health", "disk", "json"],
    &["bounded_file", "private_file", "problem", "shell", "terminal", "wording"],
];

#[test]
fn modules_import_only_lower_layers() {
    let rank = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let mut violations = Vec::new();
    let mut seen = BTreeSet::new();
    for (module, imports) in imports() {
        seen.insert(module.clone());
        let from = rank(&module).unwrap_or_else(|| panic!("{module} has no layer: add it to LAYERS"));
        for (import, file) in imports {
            if import == "polyhook_simulator" {
                if module != "cli" {
                    violations.push(format!("{}: only cli uses the simulator", file.display()));
                }
                continue;
            }
            let Some(to) = rank(&import) else { panic!("{}: what is crate::{import}?", file.display()) };
            if import != module && to <= from {
                violations.push(format!("{}: {module} imports {import}", file.display()));
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    let declared: BTreeSet<_> = LAYERS.concat().into_iter().map(str::to_owned).collect();
    assert_eq!(seen, declared, "LAYERS must list exactly the existing modules");
}

/// Returns, for each top-level module, the top-level modules that its product code names.
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
            for name in imported_modules(&text) {
                found.entry(name).or_insert_with(|| inside.to_owned());
            }
        }
    }
    imports
}

/// Returns the modules in `crate::module` and `crate::{module, …}` before the unit tests.
fn imported_modules(text: &str) -> Vec<String> {
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

/// Returns the first words of the items of a `{…}` group, without nested groups.
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
fn finds_single_grouped_and_inline_imports() {
    let text = "use crate::{\n    clock::{Clock, x},\n    secret::Secret,\n};\nlet a = crate::event::read();\n// crate::app\n";
    assert_eq!(imported_modules(text), ["clock", "secret", "event"]);
}

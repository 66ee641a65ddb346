//! The rules that keep the source tree readable: no two rooms of `src` import each other, and only
//! `src/broker/` knows lapin. A room is a folder or a top-level file of `src`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Assembles the crate, and so names every room.
const ROOTS: [&str; 2] = ["lib", "main"];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of src can be read") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The room of a file below `src`.
fn room(file: &Path) -> String {
    let inside = file.strip_prefix(src()).expect("the file lies in src");
    let first = inside.iter().next().and_then(|part| part.to_str());
    let first = first.expect("a file of src has a name");
    first.trim_end_matches(".rs").to_owned()
}

/// The source without its comments, so that links in documentation are no imports.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a source file can be read");
    let lines = text.lines().map(|line| match line.find("//") {
        Some(at) if !line[..at].contains('"') => &line[..at],
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The names that follow `crate::`, in paths and in the first level of `use crate::{..}`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(name(rest));
            continue;
        };
        let mut depth = 0;
        let mut is_first = true;
        for (at, letter) in list.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => is_first = true,
                letter if is_first && depth == 0 && !letter.is_whitespace() => {
                    found.insert(name(&list[at..]));
                    is_first = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn name(text: &str) -> String {
    let is_part = |letter: &char| letter.is_alphanumeric() || *letter == '_';
    text.chars().take_while(is_part).collect()
}

/// The rooms of the names that `lib.rs` exports again: `crate::Worker` is an import of `worker`.
fn exported() -> BTreeMap<String, String> {
    let mut exported = BTreeMap::new();
    for line in code(&src().join("lib.rs")).split("pub use ").skip(1) {
        let (room, names) = line.split_once("::").expect("an export names its room");
        let names = names.split(';').next().unwrap_or_default();
        for export in names.split([',', '{', '}']).map(str::trim) {
            exported.insert(name(export), room.to_owned());
        }
    }
    exported
}

/// Which rooms each room imports.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let files = rust_files(&src());
    let rooms: BTreeSet<_> = files.iter().map(|file| room(file)).collect();
    let exported = exported();
    let mut arrows = BTreeMap::<_, BTreeSet<_>>::new();
    for file in &files {
        let own = room(file);
        let seen = imports(&code(file)).into_iter();
        let seen = seen.map(|name| exported.get(&name).cloned().unwrap_or(name));
        let seen: Vec<_> = seen
            .filter(|name| *name != own && rooms.contains(name))
            .collect();
        arrows.entry(own).or_default().extend(seen);
    }
    arrows
}

#[test]
fn no_two_rooms_import_each_other_not_even_by_way_of_others() {
    let arrows = arrows();
    for from in arrows.keys().filter(|from| !ROOTS.contains(&from.as_str())) {
        let mut reached = BTreeSet::new();
        let mut left: Vec<_> = arrows[from].iter().collect();
        while let Some(to) = left.pop() {
            assert_ne!(from, to, "{from} imports itself by way of {reached:?}");
            if reached.insert(to) {
                left.extend(&arrows[to]);
            }
        }
    }
}

#[test]
fn only_the_broker_room_names_lapin() {
    for file in rust_files(&src()) {
        // Every second part lies between quotes: log targets may carry the name.
        let code = code(&file);
        let names_lapin = code
            .split('"')
            .step_by(2)
            .any(|part| part.contains("lapin::"));
        assert!(
            !names_lapin || room(&file) == "broker",
            "{} names lapin",
            file.display(),
        );
    }
}

/// The rooms that a simulation runs. What they do must follow from its seed.
const SIMULATED: [&str; 11] = [
    "broker",
    "client",
    "dead_letters",
    "flight",
    "handler",
    "lane",
    "path",
    "policy",
    "state",
    "status",
    "worker",
];

/// The code of a file, up to its tests.
fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]\nmod tests").next().unwrap_or(code)
}

#[test]
fn chance_and_the_time_of_day_come_from_one_place_each_and_select_is_biased() {
    for file in rust_files(&src()) {
        let code = code(&file);
        let code = without_tests(&code);
        let is_test = file
            .iter()
            .any(|part| part == "tests" || part == "tests.rs");
        if !SIMULATED.contains(&room(&file).as_str()) || is_test {
            continue;
        }
        for source in ["rand::", "Uuid::", "SystemTime::now", "RandomState"] {
            // The HTTP handler is not simulated.
            let is_http = file.iter().any(|part| part == "http");
            assert!(
                !code.contains(source) || is_http,
                "{} uses {source}",
                file.display()
            );
        }
        for (at, _) in code.match_indices("select! {") {
            let is_biased = code[at..]
                .lines()
                .skip(1)
                .find(|line| !line.trim().is_empty());
            let is_biased = is_biased.is_some_and(|line| line.trim() == "biased;");
            let is_http = file.iter().any(|part| part == "http");
            assert!(
                is_biased || is_http,
                "{} has a select! that is not biased",
                file.display()
            );
        }
    }
}

#[test]
fn imports_are_seen_in_paths_and_in_lists() {
    let code = "use crate::{a::B, c::{d, e}, F}; fn g() { crate::h::i(); }";
    let found = imports(code).into_iter().collect::<Vec<_>>();
    assert_eq!(found, ["F", "a", "c", "h"]);
}

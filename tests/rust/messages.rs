//! What the compiler says about code that uses the library wrongly.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

/// The library, as cargo has last built it for these tests.
fn library(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder).expect("the folder of this test can be read");
    let files = entries.map(|entry| entry.expect("an entry can be read").path());
    let is_library = |file: &PathBuf| {
        let name = file.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("liblapwing-") && name.ends_with(".rlib"))
    };
    let built = |file: &PathBuf| {
        let data = fs::metadata(file);
        let time = data.and_then(|data| data.modified());
        time.unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let library = files.filter(is_library).max_by_key(built);
    library.expect("cargo builds the library before its tests")
}

/// What the compiler says about a program with these items. Empty: nothing.
fn said_about(items: &str) -> String {
    let this = env::current_exe().expect("a test has a file");
    let built = this.parent().expect("a file has a folder");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let source = folder.path().join("wrong.rs");
    let uses = "#![allow(dead_code)] use lapwing::{*, handler::*};";
    fs::write(&source, format!("{uses}\n{items}")).expect("a file can be written");
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(compiler)
        .args(["--edition=2024", "--crate-type=lib", "--emit=metadata"])
        .arg("--extern")
        .arg(format!("lapwing={}", library(built).display()))
        .arg("-L")
        .arg(format!("dependency={}", built.display()))
        .arg("--out-dir")
        .arg(folder.path())
        .arg(&source)
        .output()
        .expect("rustc runs");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A function that registers `handler`.
fn registers(handler: &str) -> String {
    format!(
        "{handler}\nfn register(worker: Worker) -> Worker {{ worker.handler(\"orders\", handler) }}"
    )
}

#[test]
fn a_handler_compiles_without_a_word() {
    let handler =
        "async fn handler(_: Attempt, _: Option<MessageId>) -> Result<(), Failure> { Ok(()) }";
    assert_eq!(said_about(&registers(handler)), "");
}

#[test]
fn a_function_that_is_no_handler_is_told_what_one_is() {
    for handler in [
        "async fn handler(_: u32) {}",
        "async fn handler() -> u32 { 1 }",
        "async fn handler() -> Result<(), std::io::Error> { Ok(()) }",
        "fn handler(_: Attempt) {}",
        "async fn handler(a: Attempt, b: Attempt, c: Attempt, d: Attempt, e: Attempt, f: Attempt, \
         g: Attempt) {}",
    ] {
        let said = said_about(&registers(handler));
        for words in [
            "cannot be registered as a handler",
            "this is no handler",
            "an async function of up to six arguments",
            "each argument implements `lapwing::handler::FromContext`",
            "the function returns `()`, `lapwing::Outcome`",
        ] {
            assert!(said.contains(words), "{words:?} is missing:\n{said}");
        }
    }
}

#[test]
fn a_type_without_a_trait_is_told_which_one_it_needs() {
    let needs = "fn argument<T: FromContext>() {} fn outcome<T: IntoOutcome>() {}
                 fn error<T: IntoFailure>() {} fn handler<T: Handler>() {}";
    for (call, words) in [
        ("argument::<u32>()", "`u32` is no argument of a handler"),
        ("outcome::<u32>()", "`u32` is no outcome of a handler"),
        (
            "outcome::<Result<(), std::fmt::Error>>()",
            "`std::fmt::Error` does not say what follows from it",
        ),
        (
            "error::<u32>()",
            "implement `lapwing::handler::IntoFailure` for `u32`",
        ),
        ("handler::<u32>()", "`u32` is no handler"),
    ] {
        let said = said_about(&format!("{needs} fn wrong() {{ {call} }}"));
        assert!(said.contains(words), "{words:?} is missing:\n{said}");
    }
}

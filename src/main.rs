//! The `lapwing` command.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Before anything else: a signal that comes sooner is lost, or ends the process.
    let caught = cli::Caught::new();
    // rustls has several cryptography providers. Install one by name: with two in the build, rustls
    // could not choose. An error means that a provider is already installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::main(cli::Cli::parse(), caught)
}

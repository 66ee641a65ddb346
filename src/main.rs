//! The `lapwing` command.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Two TLS libraries share one provider; naming it keeps a second one from making it ambiguous.
    // An error means that it is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::main(cli::Cli::parse())
}

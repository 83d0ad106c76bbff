//! The measurements as a program.

mod args;
mod command;
mod gateway;

use std::process::ExitCode;

// The bare loops use the allocator of the gateway; otherwise allocators would be compared.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The gateway does the same for itself (`setgate::main`): ten thousand receivers need as many descriptors, and
    // small buffers.
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, files);
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    command::main()
}

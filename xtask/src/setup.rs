//! Sets up what a machine needs in addition to Rust and git: a C++ compiler and libclang (for
//! RocksDB), the wasm target, and valgrind for those who count instructions. It installs them where
//! it may (rustup; apt-get as root or with passwordless sudo), and otherwise prints the exact
//! command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

const ADVICE: &str = "\
  Debian, Ubuntu:  sudo apt-get install g++ make libclang-dev
  Fedora:          sudo dnf install gcc-c++ make clang-devel
  Arch:            sudo pacman -S gcc make clang
  macOS:           xcode-select --install && brew install llvm
libclang in an unusual place: set LIBCLANG_PATH to its directory.";

/// What `native` installs.
const NATIVE_PACKAGES: [&str; 3] = ["g++", "make", "libclang-dev"];

/// The target of programs for 64-bit ARM.
pub(crate) const AARCH64: &str = "aarch64-unknown-linux-gnu";
/// Where the packages below put the libraries of that target.
pub(crate) const AARCH64_ROOT: &str = "/usr/aarch64-linux-gnu";
/// The C compiler for that target, which also links.
pub(crate) const AARCH64_COMPILER: &str = "aarch64-linux-gnu-gcc";
/// Runs a program of that target on another machine.
pub(crate) const AARCH64_EMULATOR: &str = "qemu-aarch64";
/// What `aarch64` installs.
const AARCH64_PACKAGES: [&str; 3] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"];

const AARCH64_ADVICE: &str = "\
  Debian, Ubuntu:  sudo apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
Elsewhere: run it without --target on a machine of that architecture.";

const VALGRIND_ADVICE: &str = "\
  Debian, Ubuntu:  sudo apt-get install valgrind
  Fedora:          sudo dnf install valgrind
  Arch:            sudo pacman -S valgrind";

pub(crate) fn all() -> Result<()> {
    native()?;
    wasm_target()?;
    components()
}

/// Sets up the C++ compiler and libclang.
fn native() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    println!("missing: {}", missing.join(", "));
    if !(apt_install(&NATIVE_PACKAGES)? && self::missing().is_empty()) {
        bail!("{} not found; install it and run this again:\n{ADVICE}", missing.join(" and "));
    }
    Ok(())
}

/// Sets up what builds programs for 64-bit ARM, and runs them on a machine of another architecture.
pub(crate) fn aarch64() -> Result<()> {
    let missing = missing_for_aarch64();
    if missing.is_empty() {
        return Ok(());
    }
    println!("missing: {}", missing.join(", "));
    if !(apt_install(&AARCH64_PACKAGES)? && missing_for_aarch64().is_empty()) {
        bail!("{} not found; install it and run this again:\n{AARCH64_ADVICE}", missing.join(" and "));
    }
    Ok(())
}

/// Sets up valgrind, which counts instructions.
pub(crate) fn valgrind() -> Result<()> {
    let has_valgrind = || runs("valgrind", &["--version"]);
    if has_valgrind() {
        return Ok(());
    }
    println!("missing: valgrind");
    if !(apt_install(&["valgrind"])? && has_valgrind()) {
        bail!("valgrind not found; install it and run this again:\n{VALGRIND_ADVICE}");
    }
    Ok(())
}

fn missing_for_aarch64() -> Vec<&'static str> {
    let mut missing: Vec<&str> =
        [AARCH64_COMPILER, AARCH64_EMULATOR].into_iter().filter(|program| !runs(program, &["--version"])).collect();
    if !Path::new(AARCH64_ROOT).join("lib/libc.so.6").exists() {
        missing.push("the C library for 64-bit ARM");
    }
    missing
}

fn missing() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if !(runs("c++", &["--version"]) || runs("clang++", &["--version"])) {
        missing.push("a C++ compiler");
    }
    if !has_libclang() {
        missing.push("libclang");
    }
    missing
}

pub(crate) fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Tells whether bindgen will find libclang. It looks in the same places as clang-sys.
fn has_libclang() -> bool {
    if let Some(path) = std::env::var_os("LIBCLANG_PATH") {
        let path = PathBuf::from(path);
        return path.is_file() || holds_libclang(&path);
    }
    let mut places: Vec<PathBuf> = [
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/opt/homebrew/opt/llvm/lib",
        "/usr/local/opt/llvm/lib",
        "/Library/Developer/CommandLineTools/usr/lib",
    ]
    .map(PathBuf::from)
    .to_vec();
    if let Ok(entries) = std::fs::read_dir("/usr/lib") {
        let llvm = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm"));
        places.extend(llvm.map(|entry| entry.path().join("lib")));
    }
    places.iter().any(|place| holds_libclang(place))
}

fn holds_libclang(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with("libclang.")
                || (name.starts_with("libclang-") && !name.contains("cpp") && name.contains(".so"))
        })
    })
}

/// Installs the packages with apt-get. Returns true if apt-get could be used.
pub(crate) fn apt_install(packages: &[&str]) -> Result<bool> {
    if !runs("apt-get", &["--version"]) {
        return Ok(false);
    }
    let prefix: &[&str] = if runs("sh", &["-c", "test $(id -u) = 0"]) {
        &[]
    } else if runs("sudo", &["-n", "true"]) {
        &["sudo", "-n"]
    } else {
        return Ok(false);
    };
    let install = [&["apt-get", "install", "--yes", "--no-install-recommends"][..], packages].concat();
    for arguments in [vec!["apt-get", "update"], install] {
        let words: Vec<&str> = prefix.iter().copied().chain(arguments).collect();
        println!("$ {}", words.join(" "));
        let status = Command::new(words[0])
            .args(&words[1..])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status()?;
        if !status.success() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Installs the standard library for guests, if it is missing.
pub(crate) fn wasm_target() -> Result<()> {
    target("wasm32-unknown-unknown", None)
}

/// Installs the standard library of a target for a toolchain of rustup, or for that of the
/// checkout, if it is missing.
pub(crate) fn target(name: &str, toolchain: Option<&str>) -> Result<()> {
    let chosen = toolchain.map(|toolchain| format!("+{toolchain}"));
    let mut rustc = Command::new("rustc");
    rustc.args(&chosen).args(["--print", "sysroot"]).current_dir(crate::root());
    let sysroot = PathBuf::from(String::from_utf8_lossy(&rustc.output()?.stdout).trim());
    if sysroot.join("lib/rustlib").join(name).join("lib").exists() {
        return Ok(());
    }
    let mut words = vec!["target", "add", name];
    words.extend(toolchain.iter().flat_map(|toolchain| ["--toolchain", *toolchain]));
    rustup(&words)
}

/// Installs rustfmt and clippy, which the tests run, if they are missing.
fn components() -> Result<()> {
    for (probe, component) in [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")] {
        let found = Command::new(probe)
            .arg("--version")
            .current_dir(crate::root())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !found {
            rustup(&["component", "add", component])?;
        }
    }
    Ok(())
}

pub(crate) fn rustup(arguments: &[&str]) -> Result<()> {
    println!("$ rustup {}", arguments.join(" "));
    let added =
        Command::new("rustup").args(arguments).current_dir(crate::root()).status().is_ok_and(|status| status.success());
    if !added {
        bail!(
            "`rustup {}` failed; install it for the toolchain that rust-toolchain.toml names and run this again",
            arguments.join(" ")
        );
    }
    Ok(())
}

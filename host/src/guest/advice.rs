//! Explains forbidden imports to a guest's author, and says what to write instead. This module
//! knows only names: those of functions that browsers and WASI offer, and of crates that use them.
//! It refuses nothing.

/// Most names that an error shows.
const NAMES_SHOWN: usize = 8;
/// The advice for imports that have no better one.
const ADVICE: &str = "a guest may import only the interfaces of lockstep:machine: no WASI, no clock, no randomness, no files; find the dependency that \
     needs it, or turn that feature of it off";

/// The kind of function that an import asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Clock,
    Random,
    Timer,
    Console,
    Network,
    Files,
}

impl Wish {
    const ALL: [Wish; 6] = [Wish::Clock, Wish::Random, Wish::Timer, Wish::Console, Wish::Network, Wish::Files];

    /// Returns the names of functions of browsers and of node, as wasm-bindgen names them; of WASI,
    /// by interface or function; and of C.
    fn names(self) -> &'static [&'static str] {
        match self {
            Wish::Clock => &[
                "now",
                "getTime",
                "new_0",
                "new0",
                "performance",
                "timeOrigin",
                "getTimezoneOffset",
                "clock_time_get",
                "clock_res_get",
                "wasi:clocks",
                "time",
                "clock",
                "gettimeofday",
                "clock_gettime",
                "clock_getres",
            ],
            Wish::Random => &[
                "getRandomValues",
                "randomFillSync",
                "crypto",
                "msCrypto",
                "randomUUID",
                "random",
                "random_get",
                "wasi:random",
                "rand",
                "arc4random",
                "getentropy",
                "getrandom",
                "__getrandom_custom",
                "__getrandom_v02_custom",
                "__getrandom_v03_custom",
                "__getrandom_v03_fill_uninit",
            ],
            Wish::Timer => &[
                "setTimeout",
                "clearTimeout",
                "setInterval",
                "clearInterval",
                "requestAnimationFrame",
                "cancelAnimationFrame",
                "queueMicrotask",
                "poll_oneoff",
                "nanosleep",
                "sleep",
                "usleep",
            ],
            Wish::Console => &["log", "error", "warn", "info", "debug", "trace", "stack", "console"],
            Wish::Network => &[
                "fetch",
                "Request",
                "Response",
                "XMLHttpRequest",
                "WebSocket",
                "sock_accept",
                "sock_send",
                "sock_recv",
                "wasi:sockets",
                "wasi:http",
                "socket",
                "connect",
            ],
            Wish::Files => &[
                "localStorage",
                "sessionStorage",
                "indexedDB",
                "path_open",
                "fd_read",
                "wasi:filesystem",
                "open",
                "fopen",
            ],
        }
    }

    /// Returns what the function is, and what a guest uses in its place.
    fn meaning(self) -> &'static str {
        match self {
            Wish::Clock => "a clock: a guest takes the time of the log, `cx.time()`, the same on every node",
            Wish::Random => "random numbers: a guest takes them from `cx.random()`, the same on every node",
            Wish::Timer => {
                "a timer: nothing in a guest runs later by itself, but for a watch, which asks for it with `Step::or_after`"
            }
            Wish::Console => {
                "a console: a guest writes lines with `lockstep_guest::log`, and the SDK reports panics with their place"
            }
            Wish::Network => "a network: what a guest needs from elsewhere comes in the request",
            Wish::Files => "files: what a guest keeps is in its collections",
        }
    }
}

/// Crates that use a browser's functions, and what to write in Cargo.toml.
const CRATES: [(&str, &[Wish], &str); 9] = [
    (
        "chrono",
        &[Wish::Clock],
        "`chrono = { version = \"0.4\", default-features = false, features = [\"alloc\"] }`, for its default features `wasmbind` and `clock` ask for the browser's",
    ),
    ("time", &[Wish::Clock], "`time` without its feature `wasm-bindgen`"),
    ("instant", &[Wish::Clock], "`instant` without its features `wasm-bindgen`, `stdweb` and `now`"),
    ("web-time", &[Wish::Clock], "no `web-time`, which is a browser's clock: calculate with `Duration`"),
    (
        "uuid",
        &[Wish::Clock, Wish::Random],
        "`uuid` without its feature `js` (`default-features = false`), and ids of `uuid::Builder::from_random_bytes`",
    ),
    (
        "getrandom",
        &[Wish::Random],
        "`getrandom` without its feature `js` (0.2) or `wasm_js` (later ones), and without features of others that turn these on; if it then does \
         not compile, register a custom backend for it that always fails",
    ),
    ("fastrand", &[Wish::Random], "`fastrand` without its feature `js`"),
    ("gloo-timers", &[Wish::Timer], "no `gloo-timers`"),
    ("console_error_panic_hook", &[Wish::Console], "no `console_error_panic_hook`"),
];

/// Returns the advice for imports that were refused. `module` is the file, which is searched for
/// names of crates.
pub(super) fn advice(names: &[String], module: &[u8]) -> String {
    let any = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
    let wishes: Vec<Wish> = Wish::ALL.into_iter().filter(|wish| names.iter().any(|name| is_for(name, *wish))).collect();
    let meanings: Vec<&str> = wishes.iter().map(|wish| wish.meaning()).collect();
    let meant = meanings.join("; for ");
    if any("__wbindgen") || any("wbg") || any("./") {
        let crates = browsers_crates(&wishes, module);
        let asks = if meant.is_empty() { String::new() } else { format!(" and asks for {meant}") };
        return format!(
            "a dependency was built for browsers{asks}. {crates}`cargo tree --target wasm32-unknown-unknown --invert wasm-bindgen` shows who brings it"
        );
    }
    let rest = if any("wasi_snapshot_preview1") || any("wasi_unstable") || any("wasi:") {
        "there is no WASI here: build for wasm32-unknown-unknown (Rust), or with WASI stubbed out (Python, JavaScript)"
    } else if any("env") {
        "symbols were left undefined at link time: link the library that defines them, or drop the dependency that needs them"
    } else {
        ADVICE
    };
    if meant.is_empty() { rest.to_owned() } else { format!("{rest}. They ask for {meant}") }
}

/// Returns the names to show. Names that tell the kind of function come first.
pub(super) fn shown(names: &[String]) -> String {
    let (telling, others): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| Wish::ALL.into_iter().any(|wish| is_for(name, wish)));
    let all: Vec<&str> = telling.into_iter().chain(others).map(String::as_str).collect();
    match all.get(NAMES_SHOWN..).map_or(0, <[&str]>::len) {
        0 => all.join(", "),
        more => format!("{}, and {more} more", all[..NAMES_SHOWN].join(", ")),
    }
}

/// Returns what to write in Cargo.toml about the crates that are found in the module. If none is
/// found, names all crates that are known to ask for such functions.
fn browsers_crates(wishes: &[Wish], module: &[u8]) -> String {
    let asks = |asked: &[Wish]| asked.iter().any(|wish| wishes.contains(wish));
    let found: Vec<&str> =
        CRATES.iter().filter(|(name, ..)| has_crate(module, name)).map(|(_, _, write)| *write).collect();
    if !found.is_empty() {
        return format!("In Cargo.toml: {}. ", found.join("; "));
    }
    let known: Vec<&str> = CRATES.iter().filter(|(_, asked, _)| asks(asked)).map(|(_, _, write)| *write).collect();
    match known.is_empty() {
        true => "Drop it, or turn that feature of it off. ".to_owned(),
        false => format!("Crates known for that, and what to write in Cargo.toml: {}. ", known.join("; ")),
    }
}

/// Returns whether an import is of this kind. The import is `module#function`, or an interface of a
/// component.
fn is_for(import: &str, wish: Wish) -> bool {
    match import.split_once('#') {
        Some((_, function)) => wish.names().contains(&plain(function)),
        None => wish.names().iter().any(|name| import.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))),
    }
}

/// Shortens a name: `__wbg_getTime_edc91481cbc4cd78` becomes `getTime`.
fn plain(function: &str) -> &str {
    let name = function.strip_prefix("__wbg_").unwrap_or(function);
    match name.rsplit_once('_') {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => name,
        _ => name,
    }
}

/// Returns whether the module holds traces of this crate. These are source paths in panic messages,
/// `.../chrono-0.4.45/...`, and declarations by wasm-bindgen's macro, `chrono-0123456789abcdef`.
fn has_crate(module: &[u8], name: &str) -> bool {
    let prefix = format!("{name}-");
    let starts = module.windows(prefix.len()).enumerate().filter(|(_, window)| *window == prefix.as_bytes());
    starts.into_iter().any(|(at, _)| {
        let (before, after) = (at.checked_sub(1).map(|at| module[at]), &module[at + prefix.len()..]);
        let version = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let is_path = before == Some(b'/') && version > 0 && after.get(version) == Some(&b'.');
        let is_declaration = after.len() >= 16
            && after[..16].iter().all(u8::is_ascii_hexdigit)
            && before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'_'));
        is_path || is_declaration
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bindgen(functions: &[&str]) -> Vec<String> {
        functions.iter().map(|function| format!("__wbindgen_placeholder__#__wbg_{function}_0123456789abcdef")).collect()
    }

    /// These are the imports of builds of these crates for wasm32-unknown-unknown.
    #[test]
    fn each_browsers_function_is_told_what_it_is_for_and_what_to_write() {
        let rows: [(&[&str], &str, &str, &[&str]); 9] = [
            (
                &["new_0", "getTime"],
                "…/chrono-0.4.45/src/offset/utc.rs",
                "for a clock",
                &["default-features = false", "wasmbind"],
            ),
            (&["getTimezoneOffset"], "chrono-0123456789abcdef", "`cx.time()`", &["`chrono = {"]),
            (&["getTime"], "/time-0.3.55/src/", "for a clock", &["`time` without its feature `wasm-bindgen`"]),
            (&["performance", "now"], "web-time-0123456789abcdef", "for a clock", &["no `web-time`"]),
            (&["now"], "/instant-0.1.13/src/", "for a clock", &["`instant` without"]),
            (&["getRandomValues"], "uuid-8ee46ab5988b380b", "`cx.random()`", &["`uuid` without its feature `js`"]),
            (
                &["crypto", "randomFillSync"],
                "getrandom-a757f485001bfb75",
                "for random numbers",
                &["`js` (0.2) or `wasm_js`"],
            ),
            (&["setTimeout"], "gloo-timers-caa10f4b9d52855b", "for a timer", &["no `gloo-timers`"]),
            (
                &["new", "stack", "error"],
                "console_error_panic_hook-f178a9a18eb274f1",
                "for a console",
                &["lockstep_guest::log"],
            ),
        ];
        for (functions, text, meaning, words) in rows {
            let told = advice(&bindgen(functions), text.as_bytes());
            assert!(told.contains("built for browsers") && told.contains(meaning), "{told}");
            assert!(words.iter().all(|word| told.contains(word)), "{words:?} not in {told}");
            assert!(told.contains("--invert wasm-bindgen"), "{told}");
        }
    }

    #[test]
    fn a_clock_is_not_told_of_random_numbers_and_both_are_told_of_both() {
        let clock = advice(&bindgen(&["getTime"]), b"");
        assert!(clock.contains("chrono") && clock.contains("web-time") && !clock.contains("random numbers"), "{clock}");
        let both = advice(&bindgen(&["now", "getRandomValues"]), b"");
        assert!(both.contains("for a clock") && both.contains("for random numbers"), "{both}");
        let neither = advice(&["__wbindgen_placeholder__#__wbindgen_throw".to_owned()], b"");
        assert!(neither.contains("browsers") && !neither.contains("clock"), "{neither}");
    }

    #[test]
    fn wasi_and_what_the_linker_left_are_told_likewise() {
        let of = |name: &str| advice(&[name.to_owned()], b"");
        assert!(of("wasi_snapshot_preview1#clock_time_get").contains("a clock"));
        assert!(of("wasi:clocks/wall-clock@0.2.0").contains("a clock"));
        assert!(of("wasi:random/random@0.2.0").contains("random numbers"));
        assert!(of("env#__getrandom_v03_custom").contains("random numbers"));
        assert!(of("wasi_snapshot_preview1#fd_write").starts_with("there is no WASI"));
        assert!(of("acme:clock/now@1.0.0").starts_with("a guest may import only"));
    }

    #[test]
    fn of_many_names_the_telling_ones_are_shown() {
        let mut names: Vec<String> = (0..20).map(|n| format!("__wbindgen_placeholder__#f{n}")).collect();
        names.extend(bindgen(&["getTime"]));
        let shown = shown(&names);
        assert!(
            shown.starts_with("__wbindgen_placeholder__#__wbg_getTime") && shown.ends_with("and 13 more"),
            "{shown}"
        );
    }

    #[test]
    fn a_crate_is_known_by_its_whole_name() {
        assert!(!has_crate(b"/bigtime-0.3.1/", "time") && !has_crate(b"/web-time-1.1.0/", "time"));
        assert!(!has_crate(b"web-time-4614906ef15546fc", "time") && !has_crate(b"chrono-tz", "chrono"));
        assert!(has_crate(b"time-4614906ef15546fc", "time"));
    }
}

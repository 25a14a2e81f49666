//! Which module of the host uses which, by its `use` lines and by the paths in its code. `tidy`
//! asks for circles and for arrows that point up. Tests within a file do not count: they may use
//! what is above.

use std::collections::{BTreeMap, BTreeSet};

/// The path of a module from the crate's root, such as `["raft", "link"]`.
pub type Module = Vec<String>;

/// Who uses whom.
pub struct Uses {
    pub of: BTreeMap<Module, BTreeSet<Module>>,
}

/// What `pub use` makes visible elsewhere: module and name, and where it comes from.
type Exports = BTreeMap<(Module, String), Module>;

impl Uses {
    /// Reads the files of a crate: paths from its `src`, and texts.
    pub fn read(files: &[(String, String)]) -> Uses {
        let texts: BTreeMap<Module, String> =
            files.iter().map(|(name, text)| (module_of(name), without_tests(text))).collect();
        let mut exports = Exports::new();
        for (module, text) in &texts {
            for path in statements(text, "pub use ") {
                let from = absolute(module, &path, &texts);
                if let Some(name) = path.last() {
                    exports.insert((module.clone(), name.clone()), from);
                }
            }
        }
        let mut of = BTreeMap::new();
        for (module, text) in &texts {
            let mut used = BTreeSet::new();
            // What a module hands on from within itself it does not use.
            let text = without(text, "pub use ");
            for path in statements(&text, "use ").into_iter().chain(inline(&text)) {
                if matches!(path.first().map(String::as_str), Some("crate" | "super" | "self")) {
                    used.insert(home(absolute(module, &path, &texts), &texts, &exports));
                }
            }
            used.remove(module);
            of.insert(module.clone(), used);
        }
        Uses { of }
    }

    /// Returns the groups of modules that use each other in a circle.
    pub fn circles(&self) -> Vec<Vec<String>> {
        let reach: BTreeMap<&Module, BTreeSet<&Module>> =
            self.of.keys().map(|module| (module, self.reachable(module))).collect();
        let mut circles = BTreeSet::new();
        for module in self.of.keys().filter(|module| reach[module].contains(module)) {
            let circle: Vec<String> = self
                .of
                .keys()
                .filter(|other| reach[module].contains(other) && reach[other].contains(module))
                .map(|module| module.join("/"))
                .collect();
            circles.insert(circle);
        }
        circles.into_iter().collect()
    }

    fn reachable<'a>(&'a self, from: &Module) -> BTreeSet<&'a Module> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&Module> = self.of.get(from).into_iter().flatten().collect();
        while let Some(module) = open.pop() {
            if found.insert(module) {
                open.extend(self.of.get(module).into_iter().flatten());
            }
        }
        found
    }
}

fn module_of(name: &str) -> Module {
    let path = name.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Module::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// Returns the code of a file: no comments, and nothing from `#[cfg(test)]` on before a module.
fn without_tests(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let tests_follow = line == "#[cfg(test)]"
            && lines.clone().find(|line| !line.starts_with("#[")).is_some_and(|line| line.starts_with("mod "));
        if tests_follow && lines.clone().any(|line| line.ends_with('{') && line.starts_with("mod ")) {
            break;
        }
        if !line.trim_start().starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// Returns the paths of all statements that begin with `start`, groups in braces taken apart.
fn statements(text: &str, start: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(start) {
        let is_first = rest[..at].lines().last().is_none_or(|before| before.trim().is_empty())
            || rest[..at].ends_with('\n')
            || rest[..at].ends_with(") ");
        let body = &rest[at + start.len()..];
        let Some(end) = body.find(';') else { break };
        if is_first {
            expand(&body[..end], &[], &mut paths);
        }
        rest = &body[end..];
    }
    paths
}

fn without(text: &str, start: &str) -> String {
    let mut left = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(start) {
        left.push_str(&rest[..at]);
        rest = rest[at..].split_once(';').map_or("", |(_, after)| after);
    }
    left + rest
}

fn expand(text: &str, before: &[String], paths: &mut Vec<Vec<String>>) {
    let text = text.trim();
    let (head, group) = match text.find('{') {
        Some(at) => (&text[..at], Some(&text[at + 1..text.rfind('}').unwrap_or(text.len())])),
        None => (text.split(" as ").next().unwrap_or(text), None),
    };
    let names = head.split("::").map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
    let path: Vec<String> = before.iter().cloned().chain(names).collect();
    let Some(group) = group else { return paths.push(path) };
    let (mut depth, mut begun) = (0, 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&group[begun..at], &path, paths);
                begun = at + 1;
            }
            _ => {}
        }
    }
    if !group[begun..].trim().is_empty() {
        expand(&group[begun..], &path, paths);
    }
}

/// Returns the paths `crate::…` and `super::…` in the code.
fn inline(text: &str) -> Vec<Vec<String>> {
    let is_part = |character: char| character.is_alphanumeric() || character == '_' || character == ':';
    let words = text.split(|character| !is_part(character));
    let paths = words.filter(|word| word.starts_with("crate::") || word.starts_with("super::"));
    paths.map(|word| word.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()).collect()
}

/// Returns a path from the crate's root. `self` and names of a module's own children are relative
/// to it.
fn absolute(module: &Module, path: &[String], texts: &BTreeMap<Module, String>) -> Module {
    let mut base = module.clone();
    let mut rest = path;
    match path.first().map(String::as_str) {
        Some("crate") => return path[1..].to_vec(),
        Some("self") => rest = &path[1..],
        Some("super") => {
            while rest.first().is_some_and(|name| name == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        Some(name) if !texts.contains_key(&[&base[..], &[name.to_owned()]].concat()) => return path.to_vec(),
        _ => {}
    }
    base.extend_from_slice(rest);
    base
}

/// Returns the module in which the item at `path` is defined, behind all re-exports.
fn home(mut path: Module, texts: &BTreeMap<Module, String>, exports: &Exports) -> Module {
    for _ in 0..8 {
        let known = (0..=path.len()).rev().find(|length| texts.contains_key(&path[..*length])).unwrap_or(0);
        let (module, rest) = (path[..known].to_vec(), path[known..].to_vec());
        match rest.first().and_then(|name| exports.get(&(module.clone(), name.clone()))) {
            Some(from) => path = [&from[..], &rest[1..]].concat(),
            None => return module,
        }
    }
    path
}

/// A circle of two through a re-export is found, and one that exists in tests alone is none.
#[test]
fn circles_are_found_behind_re_exports() {
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let files = [
        file("lib.rs", "pub mod a;\npub mod b;\n"),
        file("a/mod.rs", "mod inner;\npub use inner::Thing;\n"),
        file("a/inner.rs", "use crate::b::{self, other::Other as O};\npub struct Thing;\n"),
        file("b.rs", "fn f(_: crate::a::Thing) {}\n"),
        file("b/other.rs", "pub struct Other;\n#[cfg(test)]\nmod tests {\n    use crate::a::Thing;\n}\n"),
    ];
    assert_eq!(Uses::read(&files).circles(), [["a/inner", "b"]]);
}

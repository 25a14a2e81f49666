//! Checks names that are legal in protobuf and not in Rust: two names that become one in Rust, or a
//! name of which nothing is left. A message, an enum, a field or a value with such a name is
//! refused, and the error says where it stands: no request carries its name, so the author can
//! rename it. Requests carry the names of services and methods, so those get another name in Rust.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{Cardinality, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, Syntax};

use crate::{Error, Place, names, report, requests};

/// Rust types that generated code names without a path. A module of the same name hides the type.
const PRIMITIVES: [&str; 10] = ["bool", "f32", "f64", "i32", "i64", "str", "u32", "u64", "u8", "usize"];
/// Advice that most refusals end with.
const RENAME: &str = "rename one of them (requests carry the names of services and methods only)";

/// The names that are taken in each module of the generated Rust code.
#[derive(Debug, Default)]
pub(crate) struct Scopes {
    modules: BTreeMap<Vec<String>, BTreeMap<String, Item>>,
    /// Rust names of traits and their methods, by the full protobuf name of the service or method.
    pub(crate) rust: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
struct Item {
    what: What,
    subject: String,
    place: Option<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Type,
    /// The module with the declarations within a message.
    Within,
    Package,
}

impl Scopes {
    /// Collects the names of the files that Rust code is made from.
    /// Only the services of the guest's `own` files count.
    pub(crate) fn of(files: &[FileDescriptor], own: &[String]) -> Result<Scopes, Error> {
        let mut scopes = Scopes::default();
        for file in files {
            scopes.add_package(file)?;
            let module = names::package(file.package_name());
            for message in file.messages() {
                scopes.add_message(&module, &message)?;
            }
            for declared in file.enums() {
                scopes.add_enum(&module, &declared)?;
            }
        }
        scopes.add_services(files.iter().filter(|file| own.iter().any(|name| name == file.name())))?;
        scopes.check_primitives()?;
        Ok(scopes)
    }

    /// Returns the names in a module: types, traits and modules.
    pub(crate) fn names(&self, module: &[String]) -> impl Iterator<Item = &str> {
        self.modules.get(module).into_iter().flatten().map(|(name, _)| name.as_str())
    }

    fn add(&mut self, module: &[String], rust: String, item: Item) -> Result<(), Error> {
        if rust.is_empty() {
            return Err(item.refused("its name has neither a letter nor a digit, so it has none in Rust: rename it"));
        }
        let items = self.modules.entry(module.to_vec()).or_default();
        match items.get(&rust) {
            None => {
                items.insert(rust, item);
                Ok(())
            }
            Some(first) if (first.what, item.what) == (What::Package, What::Package) => Ok(()),
            Some(first) => {
                let (first, item) = if item.what == What::Package { (&item, first) } else { (first, &item) };
                let is_module = |item: &Item| item.what != What::Type;
                Err(item.refused(&if is_module(item) && (is_module(first) || first.subject == item.subject) {
                    let as_another = match first.subject == item.subject {
                        true => "as it is called itself".to_owned(),
                        false => format!("as {} does", first.shown()),
                    };
                    format!(
                        "what is declared within it stands in a module `{rust}` in Rust, {as_another}: rename the message, or declare nothing \
                         within it"
                    )
                } else {
                    format!("in Rust it is called `{rust}`, as {} is: {RENAME}", first.shown())
                }))
            }
        }
    }

    fn add_package(&mut self, file: &FileDescriptor) -> Result<(), Error> {
        let package = file.package_name();
        let subject = format!("package {package}");
        let item = Item { what: What::Package, subject, place: report::place(file, &[2]) };
        let mut module = Vec::new();
        for part in package.split('.').filter(|part| !part.is_empty()) {
            let rust = names::snake(part);
            self.add(&module, rust.clone(), item.clone())?;
            module.push(rust);
        }
        Ok(())
    }

    fn add_message(&mut self, module: &[String], message: &MessageDescriptor) -> Result<(), Error> {
        if message.is_map_entry() {
            return Ok(());
        }
        let subject = format!("message {}", message.full_name());
        let item = |what| Item { what, subject: subject.clone(), place: place_of(message) };
        self.add(module, names::camel(message.name()), item(What::Type))?;
        check_fields(message)?;
        let oneofs: Vec<_> = message.oneofs().filter(|oneof| !oneof.is_synthetic()).collect();
        let children: Vec<_> = message.child_messages().filter(|child| !child.is_map_entry()).collect();
        if oneofs.is_empty() && children.is_empty() && message.child_enums().len() == 0 {
            return Ok(());
        }
        let mut within = module.to_vec();
        self.add(module, names::snake(message.name()), item(What::Within))?;
        within.push(names::snake(message.name()));
        for child in &children {
            self.add_message(&within, child)?;
        }
        for declared in message.child_enums() {
            self.add_enum(&within, &declared)?;
        }
        let taken: Vec<String> = children.iter().map(|child| names::camel(child.name())).collect();
        let enums: Vec<String> = message.child_enums().map(|declared| names::camel(declared.name())).collect();
        for oneof in oneofs {
            let mut rust = names::camel(oneof.name());
            if taken.contains(&rust) || enums.contains(&rust) {
                rust.push_str("OneOf");
            }
            let subject = format!("oneof {}", oneof.full_name());
            let place = report::place(&oneof.parent_file(), oneof.path());
            self.add(&within, rust, Item { what: What::Type, subject, place })?;
        }
        Ok(())
    }

    fn add_enum(&mut self, module: &[String], declared: &EnumDescriptor) -> Result<(), Error> {
        let (file, subject) = (declared.parent_file(), format!("enum {}", declared.full_name()));
        let item = Item { what: What::Type, subject, place: report::place(&file, declared.path()) };
        self.add(module, names::camel(declared.name()), item)?;
        let (mut numbers, mut values) = (BTreeSet::new(), Taken::default());
        // Values in the order of the file: when several have the same number, prost takes the first
        // name.
        for (index, value) in declared.enum_descriptor_proto().value.iter().enumerate() {
            if numbers.insert(value.number()) {
                let path = [declared.path(), &[2, i32::try_from(index).unwrap_or(i32::MAX)]].concat();
                let subject = format!("value {} of enum {}", value.name(), declared.full_name());
                let item = Item { what: What::Type, subject, place: report::place(&file, &path) };
                values.add(names::value(declared.name(), value.name()), item)?;
            }
        }
        Ok(())
    }

    /// Adds services and their methods. One whose Rust name is taken keeps its name of the
    /// `.proto`.
    fn add_services<'a>(&mut self, files: impl Iterator<Item = &'a FileDescriptor>) -> Result<(), Error> {
        let services: Vec<_> = files.flat_map(FileDescriptor::services).collect();
        let named = |service: &prost_reflect::ServiceDescriptor| {
            (names::package(service.package_name()), names::camel(service.name()))
        };
        for service in &services {
            let (module, mut rust) = named(service);
            let like_it = services.iter().filter(|other| named(other) == (module.clone(), rust.clone())).count();
            let is_taken = self.modules.get(&module).is_some_and(|items| items.contains_key(&rust));
            if like_it > 1 || is_taken || rust.is_empty() {
                rust = names::exact(service.name());
            }
            let subject = format!("service {}", service.full_name());
            let place = report::place(&service.parent_file(), service.path());
            self.add(&module, rust.clone(), Item { what: What::Type, subject, place })?;
            self.rust.insert(service.full_name().to_owned(), rust);
            self.add_methods(service)?;
        }
        Ok(())
    }

    fn add_methods(&mut self, service: &prost_reflect::ServiceDescriptor) -> Result<(), Error> {
        let mut taken = Taken::default();
        for method in service.methods() {
            let mut rust = names::snake(method.name());
            let like_it = service.methods().filter(|other| names::snake(other.name()) == rust).count();
            if like_it > 1 || rust.is_empty() {
                rust = names::exact(method.name());
            }
            let subject = format!("method {}", method.full_name());
            let place = report::place(&method.parent_file(), method.path());
            taken.add(rust.clone(), Item { what: What::Type, subject, place })?;
            self.rust.insert(format!("{}/{}", service.full_name(), method.name()), rust);
        }
        Ok(())
    }

    fn check_primitives(&self) -> Result<(), Error> {
        for items in self.modules.values() {
            let has_types = items.values().any(|item| item.what == What::Type);
            let hiding =
                items.iter().find(|(name, item)| item.what != What::Type && PRIMITIVES.contains(&name.as_str()));
            if let (true, Some((name, item))) = (has_types, hiding) {
                return Err(item.refused(&format!(
                    "in Rust it makes a module `{name}`, which hides the type of that name from what is declared beside it: rename it{}",
                    if item.what == What::Within { ", or declare nothing within it" } else { "" },
                )));
            }
        }
        Ok(())
    }
}

impl Item {
    fn shown(&self) -> String {
        let place = self.place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
        format!("{}{place}", self.subject)
    }

    fn refused(&self, problem: &str) -> Error {
        Error::Name { place: self.place.clone(), subject: self.subject.clone(), problem: problem.to_owned() }
    }
}

/// The Rust names within one type.
#[derive(Default)]
struct Taken(BTreeMap<String, Item>);

impl Taken {
    fn add(&mut self, rust: String, item: Item) -> Result<(), Error> {
        if rust.is_empty() {
            return Err(item.refused("its name has neither a letter nor a digit, so it has none in Rust: rename it"));
        }
        if let Some(first) = self.0.get(&rust) {
            return Err(item.refused(&format!("in Rust it is called `{rust}`, as {} is: {RENAME}", first.shown())));
        }
        self.0.insert(rust, item);
        Ok(())
    }
}

fn place_of(message: &MessageDescriptor) -> Option<Place> {
    report::place(&message.parent_file(), message.path())
}

/// Checks the fields of the struct, the variants of its oneofs, and the methods that prost adds.
fn check_fields(message: &MessageDescriptor) -> Result<(), Error> {
    let (mut fields, mut methods) = (Taken::default(), Taken::default());
    for field in message.fields().filter(|field| !is_variant(field)) {
        let (item, rust) = (field_item(&field), names::snake(field.name()));
        fields.add(rust.clone(), item.clone())?;
        for method in methods_of(&field, &rust) {
            if method.contains("_r#") {
                return Err(
                    item.refused(&format!("a map of enums cannot be called `{}` in Rust: rename it", field.name()))
                );
            }
            methods.add(method, item.clone())?;
        }
    }
    for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        let subject = format!("oneof {}", oneof.full_name());
        let place = report::place(&oneof.parent_file(), oneof.path());
        fields.add(names::snake(oneof.name()), Item { what: What::Type, subject, place })?;
        let mut variants = Taken::default();
        for field in oneof.fields() {
            variants.add(names::camel(field.name()), field_item(&field))?;
        }
    }
    Ok(())
}

fn field_item(field: &FieldDescriptor) -> Item {
    let subject = format!("field {}", field.full_name());
    Item { what: What::Type, subject, place: report::place(&field.parent_file(), field.path()) }
}

fn is_variant(field: &FieldDescriptor) -> bool {
    field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic())
}

/// Returns the names of the methods that prost writes for this field.
fn methods_of(field: &FieldDescriptor, rust: &str) -> Vec<String> {
    let bare = rust.trim_start_matches("r#");
    match field.kind() {
        Kind::Message(entry) if field.is_map() => match entry.map_entry_value_field().kind() {
            Kind::Enum(_) => vec![format!("get_{rust}"), format!("insert_{rust}")],
            _ => vec![],
        },
        Kind::Message(_) => vec![],
        Kind::Enum(_) if field.is_list() => vec![bare.to_owned(), format!("push_{bare}")],
        Kind::Enum(_) => vec![bare.to_owned(), format!("set_{bare}")],
        _ if is_option(field) => vec![bare.to_owned()],
        _ => vec![],
    }
}

/// Tells whether prost makes this scalar an `Option`.
fn is_option(field: &FieldDescriptor) -> bool {
    let is_proto2 = field.parent_file().syntax() == Syntax::Proto2;
    field.cardinality() == Cardinality::Optional && (is_proto2 || field.containing_oneof().is_some())
}

/// Refuses what another name in Rust cannot solve.
///
/// That is a package of protobuf's own, and a message that requires itself.
pub(crate) fn check_rest(pool: &prost_reflect::DescriptorPool) -> Result<(), Error> {
    for file in pool.files().filter(|file| requests::is_google(file.package_name())) {
        if !GOOGLE_FILES.contains(&file.name()) {
            let (place, subject) = (report::place(&file, &[2]), format!("package {}", file.package_name()));
            let problem = "google.protobuf is the package of what comes with protobuf, whose types the SDK has ready: choose another one".to_owned();
            return Err(Error::Name { place, subject, problem });
        }
    }
    match pool.all_messages().find(|message| is_endless(message, &mut BTreeSet::new(), message)) {
        Some(message) => Err(Error::Name {
            place: place_of(&message),
            subject: format!("message {}", message.full_name()),
            problem: "it requires itself, so no message of it has an end: make one of the fields that lead back to it optional".to_owned(),
        }),
        None => Ok(()),
    }
}

fn is_endless(message: &MessageDescriptor, seen: &mut BTreeSet<String>, sought: &MessageDescriptor) -> bool {
    message.fields().filter(FieldDescriptor::is_required).any(|field| match field.kind() {
        Kind::Message(next) => {
            next == *sought || (seen.insert(next.full_name().to_owned()) && is_endless(&next, seen, sought))
        }
        _ => false,
    })
}

/// The files of package `google.protobuf` that the SDK contains.
const GOOGLE_FILES: [&str; 12] = [
    "google/protobuf/any.proto",
    "google/protobuf/api.proto",
    "google/protobuf/compiler/plugin.proto",
    "google/protobuf/descriptor.proto",
    "google/protobuf/duration.proto",
    "google/protobuf/empty.proto",
    "google/protobuf/field_mask.proto",
    "google/protobuf/source_context.proto",
    "google/protobuf/struct.proto",
    "google/protobuf/timestamp.proto",
    "google/protobuf/type.proto",
    "google/protobuf/wrappers.proto",
];

//! The corpus: `.proto` files with words that have a meaning in Rust, in its standard library or in
//! generated code, at every place where a `.proto` can have a name. All of them are legal in
//! protobuf, so the SDK must accept them.

use std::fmt::Write;

/// Keywords of Rust and of protobuf, types and traits of the prelude, crates, primitive types, and
/// names that generated code declares or calls.
const WORDS: [&str; 138] = [
    "as",
    "break",
    "const",
    "continue",
    "crate",
    "else",
    "enum",
    "extern",
    "false",
    "fn",
    "for",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "match",
    "mod",
    "move",
    "mut",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "struct",
    "super",
    "trait",
    "true",
    "type",
    "unsafe",
    "use",
    "where",
    "while",
    "async",
    "await",
    "dyn",
    "abstract",
    "become",
    "box",
    "do",
    "final",
    "macro",
    "override",
    "priv",
    "try",
    "typeof",
    "unsized",
    "virtual",
    "yield",
    "gen",
    "union",
    "option",
    "result",
    "vec",
    "string",
    "some",
    "none",
    "ok",
    "err",
    "clone",
    "copy",
    "send",
    "sized",
    "drop",
    "as_ref",
    "into",
    "from",
    "default",
    "iterator",
    "eq",
    "hash",
    "debug",
    "bool",
    "char",
    "str",
    "i8",
    "i32",
    "u8",
    "u64",
    "usize",
    "f32",
    "f64",
    "std",
    "core",
    "alloc",
    "prost",
    "prost_types",
    "lockstep_guest",
    "lockstep_proto",
    "lockstep_root",
    "lockstep_methods",
    "inner",
    "key_wrapper",
    "map_wrapper",
    "scalar_wrapper",
    "value_wrapper",
    "message",
    "oneof",
    "name",
    "encode",
    "merge",
    "clear",
    "encoded_len",
    "merge_field",
    "fmt",
    "from_i32",
    "as_str_name",
    "buf",
    "tag",
    "ctx",
    "value",
    "f",
    "wrapper",
    "v",
    "request",
    "cx",
    "state",
    "open",
    "command",
    "query",
    "step",
    "status",
    "method",
    "optional",
    "package",
    "rpc",
    "stream",
    "import",
    "reserved",
    "max",
    "group",
    "int32",
    "inf",
    "_1",
    "a1b",
    "double__mark",
    "trailing_",
];

type Files = Vec<(String, String)>;

/// Returns the cases by name, each with its files.
pub fn cases() -> Vec<(String, Files)> {
    let one = |name: &str, text: String| (name.to_owned(), vec![("app.proto".to_owned(), text)]);
    vec![
        one("messages", messages()),
        one("enums", enums()),
        one("fields", fields()),
        one("values", values()),
        one("methods", methods()),
        one("services", services()),
        one("oneofs", oneofs()),
        one("defaults", include_str!("corpus/defaults.proto").to_owned()),
        one("groups", include_str!("corpus/groups.proto").to_owned()),
        one("comments", comments()),
        one("google", google()),
        one("no_package", include_str!("corpus/no_package.proto").to_owned()),
        ("packages".to_owned(), packages()),
        ("imports".to_owned(), imports()),
    ]
}

/// Types that generated code names and that a module may not hide. Messages with these names have
/// no declarations within them.
const HIDING: [&str; 11] = ["_1", "bool", "f32", "f64", "i32", "i64", "str", "u32", "u64", "u8", "usize"];

fn camel(word: &str) -> String {
    let part = |part: &str| part[..1].to_uppercase() + &part[1..];
    let camel: String = word.split('_').filter(|part| !part.is_empty()).map(part).collect();
    if word.starts_with('_') { format!("_{camel}") } else { camel }
}

/// Makes a file of a package, with a text for each word and its number.
fn file(package: &str, head: &str, each: impl Fn(&str, usize) -> String) -> String {
    let mut text = format!("syntax = \"proto3\";\npackage {package};\n{head}\n");
    for (number, word) in WORDS.iter().enumerate() {
        writeln!(text, "{}", each(word, number + 1)).expect("a String takes every write");
    }
    text
}

/// Makes one declaration with a text for each word within it.
fn block(head: &str, each: impl Fn(&str, usize) -> String) -> String {
    let within: Vec<String> = WORDS.iter().enumerate().map(|(number, word)| each(word, number + 1)).collect();
    format!("{head} {{\n{}\n}}\n", within.join("\n"))
}

fn messages() -> String {
    let within =
        "enum Kind { ZERO = 0; } oneof one { string a = 2; Kind b = 3; } Kind kind = 4; map<string, Kind> by = 5;";
    let each = |word: &str, _| {
        format!("message {} {{ string text = 1; {} }}", camel(word), if HIDING.contains(&word) { "" } else { within })
    };
    let mut text = file("corpus.messages", "", each);
    text +=
        &block("message AllOfThem", |word, number| format!(".corpus.messages.{} f{number} = {number};", camel(word)));
    let method = |word: &str, number| format!("rpc M{number}({0}) returns (stream {0});", camel(word));
    text + &block("service AllServed", method)
}

fn enums() -> String {
    let each = |word: &str, number| {
        let name = camel(word);
        // Each enum is also used alone, because what a derive declares hides only the names beside
        // it.
        format!(
            "enum {name} {{ option allow_alias = true; Z{number} = 0; SOME{number} = 1; ALIAS{number} = 1; LOW{number} = -2147483648; }}
             message Alone{number} {{ optional {name} value = 1; repeated {name} values = 2; map<string, {name}> by = 3; }}"
        )
    };
    let variants = block("oneof one", |word, number| format!("{} v{number} = {number};", camel(word)));
    file("corpus.enums", "", each) + &format!("message Variants {{ {variants} }}\n")
}

fn fields() -> String {
    let kind = "enum Kind { KIND_ZERO = 0; KIND_ONE = 1; }\n";
    let of = |head: &str, ty: &str| block(head, |word, number| format!("{ty} {word} = {number};"));
    let mut text = file("corpus.fields", kind, |_, _| String::new());
    text += &of("message Plain", "string");
    text += &of("message Optional", "optional bytes");
    text += &of("message Enums", "Kind");
    text += &of("message OptionalEnums", "optional Kind");
    text += &of("message RepeatedEnums", "repeated Kind");
    text += &of("message Maps", "map<int32, bytes>");
    text += &of("message Messages", ".corpus.fields.Plain");
    text + &format!("message Variants {{ {} }}\n", of("oneof one", "string"))
}

fn values() -> String {
    let upper = block("enum Upper", |word, number| format!("{} = {};", word.to_uppercase(), number - 1));
    // A line may not begin with a word that begins a statement.
    let is_statement = |word: &str| {
        [
            "enum",
            "extend",
            "extensions",
            "import",
            "message",
            "oneof",
            "option",
            "package",
            "reserved",
            "service",
            "syntax",
        ]
        .contains(&word)
    };
    let lower = block("enum Lower", |word, number| match is_statement(word) {
        true if number > 1 => String::new(),
        _ => format!("{word} = {};", number - 1),
    });
    let prefixed = block("enum Prefixed", |word, number| format!("PREFIXED_{} = {};", word.to_uppercase(), number - 1));
    let uses = "Upper upper = 1; optional Lower lower = 2; repeated Prefixed prefixed = 3;";
    file("corpus.values", "", |_, _| String::new())
        + &upper
        + &format!(
            "message Holds {{ {lower} }}\n{prefixed}\nmessage Uses {{ {} }}\n",
            uses.replace("Lower", "Holds.Lower")
        )
}

fn methods() -> String {
    let head = "import \"lockstep/options.proto\";\nmessage Q { bool fresh = 1; } message R {}";
    let query = "option (lockstep.method) = { kind: QUERY, consistency_field: \"fresh\" };";
    let mut text = file("corpus.methods", head, |_, _| String::new());
    text += &block("service Camel", |word, _| format!("rpc {}(Q) returns (R);", camel(word)));
    text += &block("service Snake", |word, _| format!("rpc {word}(Q) returns (R) {{ {query} }}"));
    text + "service Alike { rpc getX(Q) returns (R); rpc GetX(Q) returns (stream R); rpc get_x(Q) returns (R); rpc _(Q) returns (R); \
            rpc Self(Q) returns (R); rpc self(Q) returns (R); }\n"
}

fn services() -> String {
    let method = "rpc Get(Q) returns (R);";
    let mut text = file("corpus.services", "message Q {} message R {} message Stock {}", |word, _| {
        format!("service {} {{ {method} }}", camel(word))
    });
    for alike in ["stock", "Alike", "ALIKE", "Empty0"] {
        let method = if alike == "Empty0" { "" } else { method };
        writeln!(text, "service {alike} {{ {method} }}").expect("a String takes every write");
    }
    text
}

fn oneofs() -> String {
    file("corpus.oneofs", "", |word, number| {
        let within = if HIDING.contains(&word) { "Other".to_owned() } else { camel(word) };
        format!(
            "message O{number} {{ enum {within} {{ Z = 0; }} oneof {word} {{ {within} a = 1; O{number} b = 2; }} }}"
        )
    })
}

fn packages() -> Files {
    let of = |(number, word): (usize, &&str)| {
        // Each file refers to the one before it, in chains of eight: an endless chain would make
        // types of endless length.
        let (import, uses) = match number {
            first if first % 8 == 0 => (String::new(), String::new()),
            _ => {
                let before = WORDS[number - 1];
                let types = format!(".{before}.{before}.Thing before = 1; .{before}.{before}.Thing.Kind kind = 2;");
                (format!("import \"p{}.proto\";", number - 1), types)
            }
        };
        let text = format!(
            "syntax = \"proto3\";\npackage {word}.{word};\n{import}\nmessage Thing {{ enum Kind {{ ZERO = 0; }} {uses} }}\n"
        );
        (format!("p{number}.proto"), text)
    };
    WORDS.iter().enumerate().map(of).collect()
}

/// Uses every type that comes with protobuf in a message of its own.
/// What can be derived for that message then depends on that type only.
fn google() -> String {
    const FILES: [&str; 11] = [
        "any",
        "api",
        "descriptor",
        "duration",
        "empty",
        "field_mask",
        "source_context",
        "struct",
        "timestamp",
        "type",
        "wrappers",
    ];
    const TYPES: [&str; 45] = [
        "Any",
        "Api",
        "Method",
        "Mixin",
        "Duration",
        "Empty",
        "FieldMask",
        "SourceContext",
        "Struct",
        "Value",
        "ListValue",
        "NullValue",
        "Timestamp",
        "Type",
        "Field",
        "Field.Kind",
        "Field.Cardinality",
        "Enum",
        "EnumValue",
        "Option",
        "Syntax",
        "BoolValue",
        "BytesValue",
        "DoubleValue",
        "FloatValue",
        "Int32Value",
        "Int64Value",
        "StringValue",
        "UInt32Value",
        "UInt64Value",
        "FileDescriptorSet",
        "FileDescriptorProto",
        "DescriptorProto",
        "FieldDescriptorProto",
        "FieldDescriptorProto.Type",
        "OneofDescriptorProto",
        "EnumDescriptorProto",
        "EnumValueDescriptorProto",
        "ServiceDescriptorProto",
        "MethodDescriptorProto",
        "FileOptions",
        "MessageOptions",
        "FieldOptions",
        "UninterpretedOption",
        "SourceCodeInfo",
    ];
    let mut text = "syntax = \"proto3\";\npackage corpus.known;\nimport \"google/protobuf/compiler/plugin.proto\";\n\
        import \"lockstep/options.proto\";\nmessage Plugin { google.protobuf.compiler.CodeGeneratorRequest request = 1; }\n\
        message Options { lockstep.MethodRules rules = 1; lockstep.Kind kind = 2; }\n".to_owned();
    for file in FILES {
        writeln!(text, "import \"google/protobuf/{file}.proto\";").expect("a String takes every write");
    }
    for (number, name) in TYPES.iter().enumerate() {
        let (name, is_enum) = (
            format!("google.protobuf.{name}"),
            ["NullValue", "Kind", "Cardinality", "Syntax", "Type"]
                .iter()
                .any(|end| name.ends_with(end) && *name != "Type"),
        );
        let rpc = if is_enum {
            String::new()
        } else {
            format!("service S{number} {{ rpc Do({name}) returns ({name}); rpc See({name}) returns (stream {name}); }}")
        };
        writeln!(
            text,
            "message Alone{number} {{ {name} one = 1; }} message Many{number} {{ repeated {name} many = 1; map<string, {name}> by = 2; }}
             message Variant{number} {{ oneof it {{ {name} one = 1; string other = 2; }} }} {rpc}"
        )
        .expect("a String takes every write");
    }
    text
}

/// A guest that imports a file with services that it could not serve.
fn imports() -> Files {
    let own = "syntax = \"proto3\";\npackage corpus.own;\nimport \"imported.proto\";\nimport \"imported/health.proto\";\n\
        service Shop { rpc Put(corpus.other.Blob) returns (corpus.other.Blob); }\n";
    let imported = "syntax = \"proto3\";\npackage corpus.other;\nmessage Blob { bytes bytes = 1; }\n\
        service Blobs { rpc Upload(stream Blob) returns (Blob); rpc Command(Blob) returns (Blob); }\n";
    let health = "syntax = \"proto3\";\npackage grpc.health.v1;\nmessage HealthCheckRequest { string service = 1; }\n\
        message HealthCheckResponse { enum ServingStatus { UNKNOWN = 0; SERVING = 1; } ServingStatus status = 1; }\n\
        service Health { rpc Check(HealthCheckRequest) returns (HealthCheckResponse); }\n";
    [("app.proto", own), ("imported.proto", imported), ("imported/health.proto", health)]
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .to_vec()
}

/// Comments that look like examples, and comments with characters that Rust does not accept in a
/// comment.
fn comments() -> String {
    let comment = "// Text with [brackets] and <tags>, https://example.com/.\n//\n\
        // ```\n// this.is(not, rust)\n// ```\n//\n\
        // ```rust\n// let x: u32 = \"no\";\n// ```\n//\n\
        //     indented.code()\n//\n// * item\n//\n//       code.in(item)\n//\n\
        // > ```\n// > quoted\n// > ```\n\
        // a carriage\rreturn, a \u{202e}turn\u{202c}, */ \\ \" and \u{7f}\n// ```unended\n";
    format!(
        "syntax = \"proto3\";\n\npackage corpus.comments;\n\n{comment}\n// Detached.\n\n{comment}message M {{\n{comment}string f = 1; // after\n\
         {comment}oneof o {{\n{comment}string v = 2;\n}}\n{comment}enum E {{\n{comment}Z = 0;\n}}\n}}\n{comment}service S {{\n{comment}\
         rpc Get(M) returns (M);\n}}\n{comment}enum F {{\n{comment}Y = 0;\n}}\n"
    )
}

//! What is written for a service.

use std::collections::BTreeMap;
use std::fmt::Write;

use prost_build::{Method, Service, ServiceGenerator};

use crate::kind::Kind;

pub(crate) struct Generator {
    kinds: BTreeMap<String, Kind>,
}

impl Generator {
    pub(crate) const fn new(kinds: BTreeMap<String, Kind>) -> Self {
        Self { kinds }
    }
}

impl ServiceGenerator for Generator {
    fn generate(&mut self, service: Service, out: &mut String) {
        let full_name = format!("{}.{}", service.package, service.proto_name);
        let methods: Vec<(&Method, Kind)> = service
            .methods
            .iter()
            .map(|method| {
                let name = format!("{full_name}.{}", method.proto_name);
                (method, self.kinds.get(&name).copied().unwrap_or(Kind::Unary))
            })
            .collect();
        write_constants(out, &service, &full_name, &methods);
        write_trait(out, &service, &methods);
        write_service(out, &service, &full_name, &methods);
        write_client(out, &service, &full_name, &methods);
    }
}

/// A constant for each method.
fn write_constants(out: &mut String, service: &Service, full_name: &str, all: &[(&Method, Kind)]) {
    for (method, kind) in all {
        let Method { proto_name, input_type, output_type, .. } = method;
        let constant = constant(service, method);
        line(out, format_args!("/// `{full_name}/{proto_name}`."));
        line(
            out,
            format_args!(
                "pub const {constant}: ::ratatosk_rpc::Method<{input_type}, {output_type}> = \
                 ::ratatosk_rpc::Method::new(\"{full_name}\", \"{proto_name}\", \
                 ::ratatosk_rpc::MethodKind::{kind:?});"
            ),
        );
    }
}

fn write_trait(out: &mut String, service: &Service, all: &[(&Method, Kind)]) {
    let name = &service.name;
    service.comments.append_with_indent(0, out);
    line(out, format_args!("pub trait {name}: Send + Sync + 'static {{"));
    for (method, kind) in all {
        let Method { name, input_type, output_type, .. } = method;
        method.comments.append_with_indent(1, out);
        line(out, format_args!("fn {name}(&self, call: ::ratatosk_rpc::Call, "));
        let answer = match kind {
            Kind::Unary | Kind::Pipeline => {
                line(out, format_args!("question: {input_type}"));
                output_type.as_str()
            }
            Kind::Stream => {
                line(
                    out,
                    format_args!(
                        "questions: ::ratatosk_rpc::Receiver<{input_type}>, \
                         answers: ::ratatosk_rpc::Sender<{output_type}>"
                    ),
                );
                "()"
            }
        };
        line(
            out,
            format_args!(
                ") -> impl ::core::future::Future<Output = \
                 ::core::result::Result<{answer}, ::ratatosk_rpc::Error>> + Send;"
            ),
        );
    }
    line(out, format_args!("}}"));
}

fn write_service(out: &mut String, service: &Service, full_name: &str, all: &[(&Method, Kind)]) {
    let name = &service.name;
    let function = format!("{}_service", snake(name));
    line(out, format_args!("/// Makes a service of an implementation."));
    line(
        out,
        format_args!(
            "pub fn {function}<T: {name}>(server: &::std::sync::Arc<T>) -> ::ratatosk_rpc::Service {{"
        ),
    );
    line(out, format_args!("::ratatosk_rpc::Service::new(\"{full_name}\")"));
    for (method, kind) in all {
        let constant = constant(service, method);
        let (verb, arguments) = match kind {
            Kind::Unary | Kind::Pipeline => ("answer", "call, question"),
            Kind::Stream => ("converse", "call, questions, answers"),
        };
        line(
            out,
            format_args!(
                ".{verb}(&{constant}, {{ let server = ::std::sync::Arc::clone(server); \
                 move |{arguments}| {{ let server = ::std::sync::Arc::clone(&server); \
                 async move {{ server.{}({arguments}).await }} }} }})",
                method.name
            ),
        );
    }
    line(out, format_args!("}}"));
}

fn write_client(out: &mut String, service: &Service, full_name: &str, all: &[(&Method, Kind)]) {
    let name = &service.name;
    line(out, format_args!("/// Calls the servers of `{full_name}`. Cheap to clone."));
    line(out, format_args!("#[derive(Clone, Debug)]"));
    line(out, format_args!("pub struct {name}Client {{ client: ::ratatosk_rpc::Client }}"));
    line(out, format_args!("impl {name}Client {{"));
    line(out, format_args!("/// The full name of the service."));
    line(out, format_args!("pub const SERVICE: &'static str = \"{full_name}\";"));
    line(out, format_args!("/// The way to its servers from a node."));
    line(
        out,
        format_args!(
            "pub fn new(node: &::ratatosk_rpc::Node) -> Self {{ \
             let name = ::ratatosk_rpc::ServiceName::new(Self::SERVICE).expect(\"a name\"); \
             Self {{ client: node.client(&name) }} }}"
        ),
    );
    for (method, kind) in all {
        write_client_method(out, service, method, *kind);
    }
    line(out, format_args!("}}"));
}

fn write_client_method(out: &mut String, service: &Service, method: &Method, kind: Kind) {
    let Method { name, input_type, output_type, .. } = method;
    let constant = constant(service, method);
    method.comments.append_with_indent(1, out);
    match kind {
        Kind::Unary => line(
            out,
            format_args!(
                "pub async fn {name}(&self, call: ::ratatosk_rpc::Call, \
                 target: &::ratatosk_rpc::Target, question: {input_type}) \
                 -> ::core::result::Result<{output_type}, ::ratatosk_rpc::Error> \
                 {{ self.client.call(&{constant}, call, target, question).await }}"
            ),
        ),
        Kind::Pipeline => line(
            out,
            format_args!(
                "pub fn {name}(&self, call: ::ratatosk_rpc::Call, target: ::ratatosk_rpc::Target, \
                 limits: ::ratatosk_rpc::PipelineLimits) \
                 -> ::ratatosk_rpc::Pipeline<{input_type}, {output_type}> \
                 {{ self.client.pipeline(&{constant}, call, target, limits) }}"
            ),
        ),
        Kind::Stream => line(
            out,
            format_args!(
                "pub fn {name}(&self, call: ::ratatosk_rpc::Call, target: ::ratatosk_rpc::Target) \
                 -> ::ratatosk_rpc::Stream<{input_type}, {output_type}> \
                 {{ self.client.stream(&{constant}, call, target) }}"
            ),
        ),
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = out.write_fmt(text);
    out.push('\n');
}

/// `Parrot` and `say` make `PARROT_SAY`.
fn constant(service: &Service, method: &Method) -> String {
    let method = method.name.trim_start_matches("r#");
    format!("{}_{}", snake(&service.name), method).to_uppercase()
}

/// `SessionDict` makes `session_dict`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for (index, letter) in name.chars().enumerate() {
        if letter.is_uppercase() && index > 0 {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_services_become_names_of_functions() {
        for (name, expected) in [("Parrot", "parrot"), ("SessionDict", "session_dict")] {
            assert_eq!(snake(name), expected);
        }
    }
}

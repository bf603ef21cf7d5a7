//! Requests as `/chat/completions` takes them. No I/O; what comes back is read in [`super::chunks`].

use serde_json::{Map, Value, json};

use super::{Message, Protocol, RawCall, Request, Speaker};
use crate::tools::schema::{ToolSpec, any_call_schema};

/// Builds the body of a streaming request.
///
/// The order of fields never changes, and neither do bytes of earlier messages: a server's prompt cache lives on that.
pub fn build_body(model: &str, request: &Request) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), json!(model));
    if request.protocol == Protocol::Native && !request.tools.is_empty() {
        let tools: Vec<Value> = request.tools.iter().map(build_tool).collect();
        body.insert("tools".into(), Value::Array(tools));
        body.insert("tool_choice".into(), json!("auto"));
    }
    if request.protocol == Protocol::JsonSchema && !request.tools.is_empty() {
        body.insert(
            "response_format".into(),
            json!({"type": "json_schema", "json_schema": {"name": "call", "strict": true, "schema": any_call_schema(&request.tools)}}),
        );
    }
    let messages: Vec<Value> = request
        .messages
        .iter()
        .map(|message| build_message(message, request.protocol))
        .collect();
    body.insert("messages".into(), Value::Array(messages));
    body.insert("max_tokens".into(), json!(request.max_tokens));
    if let Some(temperature) = request.temperature {
        body.insert("temperature".into(), json!(temperature));
    }
    if !request.chat_template_kwargs.is_empty() {
        body.insert(
            "chat_template_kwargs".into(),
            Value::Object(request.chat_template_kwargs.clone()),
        );
    }
    body.insert("stream".into(), json!(true));
    body.insert("stream_options".into(), json!({"include_usage": true}));
    Value::Object(body)
}

fn build_tool(tool: &ToolSpec) -> Value {
    json!({"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": tool.json_schema()}})
}

fn build_message(message: &Message, protocol: Protocol) -> Value {
    let native = protocol == Protocol::Native;
    match message.role {
        Speaker::Tool if native => {
            json!({"role": "tool", "tool_call_id": message.call_id.as_deref().unwrap_or_default(), "content": message.content})
        }
        Speaker::Tool => json!({"role": "user", "content": message.content}),
        Speaker::Assistant if native && !message.calls.is_empty() => {
            let calls: Vec<Value> = message.calls.iter().map(build_call).collect();
            let content = if message.content.is_empty() {
                Value::Null
            } else {
                json!(message.content)
            };
            json!({"role": "assistant", "content": content, "tool_calls": calls})
        }
        Speaker::Assistant => json!({"role": "assistant", "content": message.content}),
        Speaker::System => json!({"role": "system", "content": message.content}),
        Speaker::User => json!({"role": "user", "content": message.content}),
    }
}

fn build_call(call: &RawCall) -> Value {
    // Chat templates parse the arguments: what is not an object would break every later request.
    let sound = serde_json::from_str::<Map<String, Value>>(&call.arguments).is_ok();
    let arguments = if sound { call.arguments.as_str() } else { "{}" };
    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_arguments_are_not_sent_back_to_the_template() {
        let call = RawCall {
            id: "1".into(),
            name: "bash".into(),
            arguments: "{\"command\": \"ls".into(),
        };
        let message = Message {
            calls: vec![call],
            ..Message::text(Speaker::Assistant, "")
        };
        let built = build_message(&message, Protocol::Native);
        assert_eq!(built.pointer("/tool_calls/0/function/arguments"), Some(&json!("{}")));
        assert_eq!(built.get("content"), Some(&Value::Null));
    }
}

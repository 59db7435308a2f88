//! Writes Bundles, keys in HAPI's order: resourceType, id, meta, type, total, link, entry.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::body::{Body, Payload};
use crate::instant;

/// A Bundle being written.
#[derive(Debug)]
pub(crate) struct Bundle {
    payload: Payload,
    entries: usize,
}

/// What stands before the entries.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) kind: &'static str,
    pub(crate) id: &'a str,
    pub(crate) at: DateTime<Utc>,
    pub(crate) total: Option<usize>,
    pub(crate) links: &'a [(&'static str, String)],
}

impl Bundle {
    pub(crate) fn open(head: &Head<'_>) -> Self {
        let mut payload = Payload::default();
        let Head { kind, id, at, total, links } = head;
        let at = instant::text(*at);
        payload.push_str(&format!(
            r#"{{"resourceType":"Bundle","id":"{id}","meta":{{"lastUpdated":"{at}"}},"type":"{kind}""#
        ));
        if let Some(total) = total {
            payload.push_str(&format!(r#","total":{total}"#));
        }
        let links: Vec<String> =
            links.iter().map(|(rel, url)| format!(r#"{{"relation":"{rel}","url":{}}}"#, quoted(url))).collect();
        if !links.is_empty() {
            payload.push_str(&format!(r#","link":[{}]"#, links.join(",")));
        }
        Self { payload, entries: 0 }
    }

    /// Adds an entry: its `fullUrl`, its resource if it has one, and more members, begun with a comma each.
    pub(crate) fn entry(&mut self, full_url: &str, resource: Option<&Body>, more: &str) {
        self.payload.push_str(if self.entries == 0 { r#","entry":[{"fullUrl":"# } else { r#",{"fullUrl":"# });
        self.payload.push_str(&quoted(full_url));
        if let Some(resource) = resource {
            self.payload.push_str(r#","resource":"#);
            self.payload.push_body(resource);
        }
        self.payload.push_str(more);
        self.payload.push_str("}");
        self.entries += 1;
    }

    pub(crate) fn close(mut self) -> Payload {
        self.payload.push_str(if self.entries == 0 { "}" } else { "]}" });
        self.payload
    }
}

/// `text` as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) { format!("\"{text}\"") } else { Value::from(text).to_string() }
}

/// A resource reduced to `elements`, with `resourceType`, `id` and `meta`, marked as SUBSETTED. This one goes
/// through a tree, as on any server: what is cut up is no longer what was stored.
pub(crate) fn subset(body: &Body, elements: &[String]) -> Body {
    let Ok(Value::Object(mut resource)) = serde_json::from_str::<Value>(&body.text()) else {
        return body.clone();
    };
    let kept = |name: &str| elements.iter().any(|element| element.split('.').any(|part| part == name));
    resource.retain(|name, _| matches!(name.as_str(), "resourceType" | "id" | "meta") || kept(name));
    let meta = resource.entry("meta").or_insert_with(|| Value::Object(serde_json::Map::new()));
    if let Some(meta) = meta.as_object_mut() {
        let tag = serde_json::json!({
            "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
            "code": "SUBSETTED",
            "display": "Resource encoded in summary mode"
        });
        match meta.get_mut("tag").and_then(Value::as_array_mut) {
            Some(tags) => tags.push(tag),
            None => drop(meta.insert("tag".to_owned(), Value::Array(vec![tag]))),
        }
    }
    Body::Text(Value::Object(resource).to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_keep_their_bytes() {
        let head = Head {
            kind: "searchset",
            id: "b",
            at: DateTime::UNIX_EPOCH,
            total: Some(2),
            links: &[("self", "http://x/fhir/A?a=\"".to_owned())],
        };
        let mut bundle = Bundle::open(&head);
        let resource = Body::Text(r#"{"resourceType":"A", "v":1.00,"t":"\u00e9"}"#.into());
        bundle.entry("http://x/A/1", Some(&resource), r#","search":{"mode":"match"}"#);
        bundle.entry("http://x/A/2", None, "");
        let sent: Vec<u8> = bundle.close().flatten().collect();
        assert_eq!(
            String::from_utf8(sent).as_deref(),
            Ok(concat!(
                r#"{"resourceType":"Bundle","id":"b","meta":{"lastUpdated":"1970-01-01T00:00:00.000+00:00"},"type":"searchset","#,
                r#""total":2,"link":[{"relation":"self","url":"http://x/fhir/A?a=\""}],"entry":["#,
                r#"{"fullUrl":"http://x/A/1","resource":{"resourceType":"A", "v":1.00,"t":"\u00e9"},"search":{"mode":"match"}},"#,
                r#"{"fullUrl":"http://x/A/2"}]}"#
            ))
        );
    }

    #[test]
    fn a_subset_keeps_id_and_meta_and_says_so() {
        let body = Body::Text(r#"{"resourceType":"A","id":"1","meta":{"versionId":"1"},"b":2,"c":3}"#.into());
        let subset = subset(&body, &["A.b".to_owned()]).text();
        let value: Value = serde_json::from_str(&subset).expect("JSON");
        assert_eq!(value["meta"]["tag"][0]["code"], "SUBSETTED");
        assert_eq!((&value["id"], &value["b"], &value["c"]), (&"1".into(), &2.into(), &Value::Null));
    }
}

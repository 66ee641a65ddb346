//! Bodies and their schema.

use super::*;

/// Settings with this schema.
fn with_schema(schema: &Value) -> (tempfile::NamedTempFile, BodySettings) {
    let file = file(&schema.to_string());
    let settings = BodySettings {
        schema_file: Some(file.path().to_owned()),
        ..events()
    };
    (file, settings)
}

#[test]
fn a_body_that_does_not_fit_the_schema_names_the_places_and_no_values() {
    let (_file, settings) = with_schema(&json!({
        "required": ["id"],
        "properties": {
            "id": {"type": "integer"},
            "items": {"items": {"type": "string", "maxLength": 3, "pattern": "^a"}},
        },
        "additionalProperties": false,
    }));
    let check = |body: Value| read(&settings, &typed(None, &[], body.to_string().as_bytes()));
    assert!(check(json!({"id": 1, "items": ["abc"]})).unwrap().is_json);
    let refused = |body| {
        let failure = check(body).unwrap_err();
        assert_eq!(failure.class, "schema");
        assert!(failure.undecodable, "{failure:?}");
        failure.error
    };
    assert_eq!(
        refused(json!({})),
        "the body does not fit the schema: the document: \"id\" is a required property"
    );
    assert_eq!(
        refused(json!({"id": "s3cret"})),
        "the body does not fit the schema: /id: the value is not of type \"integer\""
    );
    let long = "s3cret".repeat(1000);
    let many = refused(json!({"id": 1, "items": vec![&long; 1000]}));
    assert!(
        many.starts_with("the body does not fit the schema: /items/0: "),
        "{many}"
    );
    assert!(many.ends_with("; and more"), "{many}");
    assert!(many.len() < 2000 && !many.contains("s3cret"), "{many}");
    let names = refused(json!({"id": 1, long: 1}));
    assert!(names.len() < 2000, "{names}");
}

#[test]
fn a_schema_is_for_the_unpacked_body_and_for_the_data_of_an_event() {
    let (_file, settings) = with_schema(&json!({"required": ["id"]}));
    assert!(
        read(&settings, &packed("gzip", &gzip(BODY)))
            .unwrap()
            .is_json
    );
    assert!(read(&settings, &packed("gzip", &gzip(b"{}"))).is_err());
    let event = |data: Value| {
        let event = json!({
            "specversion": "1.0", "id": "1", "source": "/a", "type": "t", "data": data
        });
        typed(
            Some("application/cloudevents+json"),
            &[],
            event.to_string().as_bytes(),
        )
    };
    assert!(read(&settings, &event(json!({"id": 2}))).unwrap().is_event);
    assert!(read(&settings, &event(json!({}))).is_err());
    let text = error(&settings, &typed(Some("text/plain"), &[], b"hello"));
    assert!(text.starts_with("invalid JSON"), "{text}");
}

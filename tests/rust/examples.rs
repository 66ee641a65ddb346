//! Runs the examples that need no broker, as `cargo run --example NAME` does.

macro_rules! examples {
    ($($name:ident $path:literal $behaviour:ident)*) => {$(
        #[path = $path]
        mod $name;

        #[test]
        fn $behaviour() {
            $name::main().unwrap();
        }
    )*};
}

examples! {
    dispatch "../../examples/dispatch.rs" the_example_of_dispatch_by_type_runs
    errors "../../examples/errors.rs" the_example_of_errors_runs
    extractors "../../examples/extractors.rs" the_example_of_extractors_runs
    publishing "../../examples/publishing.rs" the_example_of_publishing_runs
    testing "../../examples/testing.rs" the_example_of_testing_runs
}

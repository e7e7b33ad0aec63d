"""Types that the messages of several packages share; they are also the schemas in the OpenAPI document."""

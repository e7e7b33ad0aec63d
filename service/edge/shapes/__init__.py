"""Types that the messages of several rooms share; they are also the schemas in the OpenAPI document."""

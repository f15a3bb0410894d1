"""One adapter per wire protocol: its requests become a CompletionRequest, a Completion becomes its answer."""

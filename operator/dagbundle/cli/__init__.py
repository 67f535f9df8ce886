"""The command line, `dagbundle …`. It only reads arguments, calls the engine or the store, and shows the answer."""

"""What a cluster remembers, as `terms.Memory`."""


class Kv:
    """In a dict."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    def put(self, key: str, value: bytes) -> None:
        self.values[key] = value

    def put_new(self, key: str, value: bytes) -> bool:
        return self.values.setdefault(key, value) is value

    def delete(self, key: str) -> None:
        self.values.pop(key, None)

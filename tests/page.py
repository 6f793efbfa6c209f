"""A page as people read it: its words by class, its images, and whether every tag is closed."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Addresses in it, texts by class, and whether its tags are closed."""

    VOID = ("meta", "img", "rect", "line")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self._class: list[str] = []
        self.feed(text)
        assert not self.open

    @property
    def everything(self) -> list[str]:
        return [text for texts in self.texts.values() for text in texts]

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.addresses += [given[name] for name in ("src", "href", "action") if name in given]
        if tag not in self.VOID:
            self.open.append(tag)
            self._class.append((given.get("class") or "").split(" ")[0])

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag
            self._class.pop()

    def handle_data(self, data):
        if data.strip() and self._class:
            self.texts.setdefault(self._class[-1], []).append(data.strip())

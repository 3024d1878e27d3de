"""What several test modules use to read HTML pages."""

from html.parser import HTMLParser

VOID = {"meta", "img", "input"}


class Page(HTMLParser):
    """The elements of a page in order, each with its tag, attributes, text, and the elements that it is in."""

    def __init__(self, source: str):
        super().__init__()
        self.source, self.elements, self.open, self.depth = source, [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", "in": list(self.open), **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, inside=None, **attributes):
        return [
            element
            for element in self.elements
            if element["tag"] == tag
            and (inside is None or any(inside is outer for outer in element["in"]))
            and all(element.get(name.rstrip("_")) == value for name, value in attributes.items())
        ]

    def rows(self, table):
        """Return the texts of a table's cells; an interval's space that never breaks is any space."""
        return [
            [cell["text"].replace("\u00a0", " ") for cell in self.elements if any(row is outer for outer in cell["in"])
             and cell["tag"] in ("th", "td")]
            for row in self.all("tr", inside=table)
        ]  # fmt: skip

    def region(self, label):
        """Return the rows of the table with a label, or None."""
        regions = self.all("div", role="region", **{"aria-label": label})
        return self.rows(regions[0]) if regions else None

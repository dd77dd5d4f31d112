// windowed.js draws the rows of a long list that are seen, and no others.

export class Windowed {
  // draw(i) returns the element of row i. It should return the same element
  // as long as the row does not change. All rows have the height that the
  // CSS variable --row names. margin rows more are drawn at each end.
  constructor(scroller, draw, margin = 8) {
    this.scroller = scroller;
    this.draw = draw;
    this.margin = margin;
    this.count = 0;
    this.drawn = [];
    this.space = document.createElement("div");
    this.space.className = "windowed";
    scroller.replaceChildren(this.space);
    scroller.addEventListener("scroll", () => this.update(), { passive: true });
    new ResizeObserver(() => this.update()).observe(scroller);
  }

  rowHeight() {
    return parseFloat(getComputedStyle(this.scroller).getPropertyValue("--row")) || 24;
  }

  // resize sets the number of rows. added has the indexes at which rows came in,
  // one after the other. Those above what a person is reading move it, so
  // scrolling makes up for them, except at the very top.
  resize(count, added = []) {
    this.count = count;
    const height = this.rowHeight();
    const { scrollTop } = this.scroller;
    const top = Math.floor(scrollTop / height);
    let above = 0;
    for (const at of added) if (at <= top + above) above++;
    this.space.style.height = count * height + "px";
    if (above && scrollTop > height / 2) this.scroller.scrollTop = scrollTop + above * height;
    this.update();
  }

  // update draws in the next frame, once for many calls.
  update() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.render();
    });
  }

  // range returns the rows that are drawn: first up to, but not, end.
  range() {
    const height = this.rowHeight();
    const { scrollTop, clientHeight } = this.scroller;
    return {
      height,
      first: Math.max(0, Math.floor(scrollTop / height) - this.margin),
      end: Math.min(this.count, Math.ceil((scrollTop + clientHeight) / height) + this.margin),
    };
  }

  render() {
    const { height, first, end } = this.range();
    const rows = [];
    for (let i = first; i < end; i++) {
      const row = this.draw(i);
      row.style.transform = `translateY(${i * height}px)`;
      rows.push(row);
    }
    // Moving nodes that are in place already would end a click on them.
    if (rows.length !== this.drawn.length || rows.some((row, i) => row !== this.drawn[i])) {
      this.space.replaceChildren(...rows);
      this.drawn = rows;
    }
    this.onRender?.(first, end);
  }

  // show scrolls just as far as row i needs, and draws it at once.
  show(i) {
    const height = this.rowHeight();
    const { scrollTop, clientHeight } = this.scroller;
    if (i * height < scrollTop) this.scroller.scrollTop = i * height;
    else if ((i + 1) * height > scrollTop + clientHeight) this.scroller.scrollTop = (i + 1) * height - clientHeight;
    this.render();
  }
}

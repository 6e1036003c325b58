// What tests/test_browser.py asks of a page; added to every page before its own scripts run.
window.kvChecks = {
  // What reaches beyond the window without scrolling in a box of its own.
  overflow() {
    const width = document.documentElement.clientWidth;
    const boxed = (element) => {
      for (let p = element.parentElement; p && p !== document.body; p = p.parentElement) {
        if (/auto|scroll|hidden|clip/.test(getComputedStyle(p).overflowX)) return true;
      }
      return false;
    };
    const wide = [...document.querySelectorAll(".bd-article *, .bd-header-article *")].filter(
      (element) => {
        const box = element.getBoundingClientRect();
        return box.width > 0 && box.right > width + 1 && !boxed(element);
      },
    );
    return {
      page: document.documentElement.scrollWidth - width,
      elements: wide.slice(0, 5).map((e) => `${e.tagName}.${e.className}`),
    };
  },

  images() {
    return [...document.querySelectorAll(".bd-article img")].map((image) => ({
      src: image.src,
      loaded: image.complete && image.naturalWidth > 0,
      alt: image.alt,
    }));
  },

  // Texts whose contrast with the background behind them is less than `least`. Code is left to
  // its colour theme; a heading's "#" shows only under the pointer.
  contrast(least) {
    const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      return [r, g, b, a / 255];
    };
    const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
    const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const behind = (element) => {
      const layers = [];
      for (let p = element; p; p = p.parentElement) {
        layers.push(rgba(getComputedStyle(p).backgroundColor));
        if (layers.at(-1)[3] === 1) break;
      }
      return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
    };
    const skipped = "script, style, pre, mjx-container, .headerlink, .sd-d-none";
    const found = new Set();
    const article = document.querySelector(".bd-article");
    const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
    for (let node; (node = walker.nextNode()); ) {
      const element = node.parentElement;
      const text = node.data.trim();
      if (!text || element.closest(skipped) || !element.checkVisibility()) continue;
      const back = behind(element);
      const front = over(rgba(getComputedStyle(element).color), back);
      const [high, low] = [luminance(front), luminance(back)].sort((a, b) => b - a);
      const ratio = (high + 0.05) / (low + 0.05);
      if (ratio < least) found.add(`${ratio.toFixed(2)}: ${element.tagName}: ${text.slice(0, 40)}`);
    }
    return [...found].slice(0, 8);
  },
};

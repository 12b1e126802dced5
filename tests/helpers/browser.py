"""A real browser, and a script that finds what is too faint on a page."""

import shutil

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

# Texts and edges of controls whose contrast with what is behind them is below WCAG's AA: 4.5 for
# texts, 3 for large texts and for edges. Cells of a heat map have colors of their own, which
# tests/plots checks.
FAINT = """() => {
  const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
  const isSeen = { opacityProperty: true, visibilityProperty: true };
  const luminance = (parts) => parts
    .map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const over = (color, back) => {
    const [red, green, blue, alpha = 1] = rgb(color);
    return [red, green, blue].map((part, at) => alpha * part + (1 - alpha) * back[at]);
  };
  const behind = (element) => element
    ? over(getComputedStyle(element).backgroundColor, behind(element.parentElement))
    : [255, 255, 255];
  const contrast = (color, element) => {
    const back = behind(element), front = over(color, back);
    const [low, high] = [front, back].map(luminance).sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility(isSeen) || element.closest("script, style")) continue;
    if (element.closest(".mark, svg g")?.querySelector("[fill-opacity]")) continue;
    const style = getComputedStyle(element);
    const color = element.closest("svg") ? style.fill : style.color;
    const size = parseFloat(style.fontSize), isBold = Number(style.fontWeight) >= 700;
    const least = size >= 24 || (isBold && size >= 18.66) ? 3 : 4.5;
    const ratio = contrast(color, element);
    if (ratio < least) found.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  for (const control of document.querySelectorAll("select, input, [role=listbox]")) {
    if (!control.checkVisibility(isSeen) || control.offsetWidth < 2) continue;
    const ratio = contrast(getComputedStyle(control).borderTopColor, control.parentElement);
    if (ratio < 3) found.push(`edge of #${control.id}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""

#include "common/text/special_symbols.h"

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"

namespace baton {
namespace {

// Elements of HTML's text content, tables and inline text; Gemma's vocabularies have tags of a part of them.
bool IsHtmlElement(absl::string_view name) {
  static const auto* const elements = new absl::flat_hash_set<absl::string_view>{
      "a",   "abbr", "b",  "blockquote", "body", "br",    "caption", "cite", "code",  "dd",   "del",    "div", "dl",
      "dt",  "em",   "h1", "h2",         "h3",   "h4",    "h5",      "h6",   "head",  "hr",   "html",   "i",   "img",
      "ins", "kbd",  "li", "ol",         "p",    "pre",   "q",       "s",    "small", "span", "strong", "sub", "sup",
      "svg", "tt",   "u",  "table",      "td",   "tbody", "tfoot",   "th",   "thead", "tr",   "ul",     "var"};
  return elements->contains(name);
}

}  // namespace

bool IsControlLikeSymbol(absl::string_view piece) {
  if (piece.size() < 3) return false;
  const absl::string_view name = piece.substr(1, piece.size() - 2);
  if (piece.front() == '[' && piece.back() == ']') return true;
  if (piece.front() != '<' || piece.back() != '>') return false;
  return !IsHtmlElement(name) && !(name.front() == '/' && IsHtmlElement(name.substr(1)));
}

}  // namespace baton

// The packed source over any token store; make_packed_source(Corpus) in source.hpp opens one.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "data/source.hpp"
#include "data/token_store.hpp"

namespace demist::data {

std::unique_ptr<Source> make_packed_source(std::unique_ptr<const TokenStore> store,
                                           const PackedOptions& options);

}  // namespace demist::data

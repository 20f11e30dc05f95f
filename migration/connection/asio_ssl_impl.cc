// The one translation unit that holds asio::ssl's non-template code
// (BOOST_ASIO_SEPARATE_COMPILATION).
#include <boost/asio/ssl/impl/src.hpp>

// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.20;

/// The part of ERC-20 that the pair calls.
interface IToken {
    function balanceOf(address holder) external view returns (uint256);
    function transfer(address to, uint256 value) external returns (bool);
    function transferFrom(address from, address to, uint256 value) external returns (bool);
}

/// A market of two ERC-20 tokens: no swap ever makes the product of the reserves fall.
///
/// Callers approve the pair first; it pulls what it needs with `transferFrom`. A swap
/// pays a fee of 0.3 % that stays in the reserves, so it goes to whoever holds shares.
/// Shares are entries in this contract and cannot be transferred. There is no oracle,
/// no flash swap and no protocol fee. Tokens sent here directly, past the functions
/// below, are not counted and are lost to the sender.
contract Pair {
    event LiquidityAdded(address indexed provider, uint256 amount0, uint256 amount1, uint256 shares);
    event LiquidityRemoved(address indexed provider, uint256 amount0, uint256 amount1, uint256 shares);
    event Swapped(address indexed trader, address indexed tokenIn, uint256 amountIn, uint256 amountOut, address to);

    error SameToken();
    error UnknownToken(address token);
    error TokenRefused(address token);
    error NothingIn();
    error NothingOut();
    error OutputTooSmall(uint256 output, uint256 minimum);
    error SharesTooFew(uint256 shares, uint256 minimum);
    error SharesTooMany(uint256 available, uint256 wanted);
    error ReserveTooLarge();
    error Reentered();

    /// Of the first deposit this many shares belong to nobody for ever, so that the
    /// total can never come back to zero or be made tiny.
    uint256 public constant LOCKED_SHARES = 1000;

    address public immutable token0;
    address public immutable token1;

    uint128 private reserve0; // slot 0, low half
    uint128 private reserve1; // slot 0, high half
    uint256 public totalShares; // slot 1
    mapping(address => uint256) public sharesOf; // slot 2
    uint256 private entered = 1; // slot 3; 1 is free, 2 is taken

    modifier guarded() {
        if (entered != 1) revert Reentered();
        entered = 2;
        _;
        entered = 1;
    }

    constructor(address token0_, address token1_) {
        if (token0_ == token1_) revert SameToken();
        token0 = token0_;
        token1 = token1_;
    }

    function getReserves() external view returns (uint256, uint256) {
        return (reserve0, reserve1);
    }

    /// What `swap` would pay for `amountIn` of `tokenIn` right now.
    function quote(address tokenIn, uint256 amountIn) external view returns (uint256) {
        (uint256 reserveIn, uint256 reserveOut) = oriented(tokenIn);
        return outputFor(amountIn, reserveIn, reserveOut);
    }

    /// Takes up to the given amounts, in the proportion of the reserves (the first
    /// deposit sets the proportion), and credits the caller with shares.
    function addLiquidity(uint256 amount0, uint256 amount1, uint256 minShares)
        external
        guarded
        returns (uint256 shares)
    {
        uint256 had0 = reserve0;
        uint256 had1 = reserve1;
        uint256 total = totalShares;
        if (total != 0) {
            // Whichever of the two is plentiful is cut down to match the other.
            uint256 matching1 = (amount0 * had1) / had0;
            if (matching1 <= amount1) amount1 = matching1;
            else amount0 = (amount1 * had0) / had1;
        }
        amount0 = pull(token0, amount0);
        amount1 = pull(token1, amount1);

        if (total == 0) {
            uint256 root = squareRoot(amount0 * amount1);
            if (root <= LOCKED_SHARES) revert SharesTooFew(root, LOCKED_SHARES + 1);
            shares = root - LOCKED_SHARES;
            sharesOf[address(0)] = LOCKED_SHARES;
            total = LOCKED_SHARES;
        } else {
            uint256 by0 = (amount0 * total) / had0;
            uint256 by1 = (amount1 * total) / had1;
            shares = by0 < by1 ? by0 : by1;
        }
        if (shares == 0 || shares < minShares) revert SharesTooFew(shares, minShares);

        totalShares = total + shares;
        sharesOf[msg.sender] += shares;
        store(had0 + amount0, had1 + amount1);
        emit LiquidityAdded(msg.sender, amount0, amount1, shares);
    }

    /// Gives up `shares` of the caller and pays it that part of both reserves.
    function removeLiquidity(uint256 shares, uint256 min0, uint256 min1)
        external
        guarded
        returns (uint256 amount0, uint256 amount1)
    {
        uint256 available = sharesOf[msg.sender];
        if (available < shares) revert SharesTooMany(available, shares);
        uint256 total = totalShares;
        uint256 had0 = reserve0;
        uint256 had1 = reserve1;
        amount0 = total == 0 ? 0 : (had0 * shares) / total;
        amount1 = total == 0 ? 0 : (had1 * shares) / total;
        if (amount0 == 0 || amount1 == 0) revert NothingOut();
        if (amount0 < min0) revert OutputTooSmall(amount0, min0);
        if (amount1 < min1) revert OutputTooSmall(amount1, min1);

        sharesOf[msg.sender] = available - shares;
        totalShares = total - shares;
        store(had0 - amount0, had1 - amount1);
        push(token0, msg.sender, amount0);
        push(token1, msg.sender, amount1);
        emit LiquidityRemoved(msg.sender, amount0, amount1, shares);
    }

    /// Takes `amountIn` of `tokenIn` from the caller and pays the other token to `to`,
    /// at least `minOut` of it.
    function swap(address tokenIn, uint256 amountIn, uint256 minOut, address to)
        external
        guarded
        returns (uint256 amountOut)
    {
        (uint256 reserveIn, uint256 reserveOut) = oriented(tokenIn);
        amountIn = pull(tokenIn, amountIn);
        if (amountIn == 0) revert NothingIn();
        amountOut = outputFor(amountIn, reserveIn, reserveOut);
        if (amountOut == 0) revert NothingOut();
        if (amountOut < minOut) revert OutputTooSmall(amountOut, minOut);

        if (tokenIn == token0) {
            store(reserveIn + amountIn, reserveOut - amountOut);
            push(token1, to, amountOut);
        } else {
            store(reserveOut - amountOut, reserveIn + amountIn);
            push(token0, to, amountOut);
        }
        emit Swapped(msg.sender, tokenIn, amountIn, amountOut, to);
    }

    /// The reserves seen from `tokenIn`: its own first.
    function oriented(address tokenIn) private view returns (uint256, uint256) {
        if (tokenIn == token0) return (reserve0, reserve1);
        if (tokenIn == token1) return (reserve1, reserve0);
        revert UnknownToken(tokenIn);
    }

    /// The greatest output that keeps the product of the reserves, counting only
    /// 997 thousandths of the input.
    function outputFor(uint256 amountIn, uint256 reserveIn, uint256 reserveOut) private pure returns (uint256) {
        uint256 counted = amountIn * 997;
        uint256 below = reserveIn * 1000 + counted;
        return below == 0 ? 0 : (counted * reserveOut) / below;
    }

    /// Takes tokens from the caller; what came in is measured, not believed.
    function pull(address token, uint256 amount) private returns (uint256) {
        uint256 before = IToken(token).balanceOf(address(this));
        if (!IToken(token).transferFrom(msg.sender, address(this), amount)) revert TokenRefused(token);
        return IToken(token).balanceOf(address(this)) - before;
    }

    function push(address token, address to, uint256 amount) private {
        if (!IToken(token).transfer(to, amount)) revert TokenRefused(token);
    }

    function store(uint256 new0, uint256 new1) private {
        if (new0 > type(uint128).max || new1 > type(uint128).max) revert ReserveTooLarge();
        reserve0 = uint128(new0);
        reserve1 = uint128(new1);
    }

    /// The integer square root, by Newton's method from above.
    function squareRoot(uint256 value) private pure returns (uint256 root) {
        if (value < 2) return value;
        root = value;
        uint256 next = value / 2 + 1;
        while (next < root) {
            root = next;
            next = (value / next + next) / 2;
        }
    }
}

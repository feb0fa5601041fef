// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.20;

/// A plain ERC-20 token with a fixed supply, all of it minted to the deployer.
///
/// It has no owner, no pause, no permit and no fee: only what the standard asks for.
/// The generator relies on the order of the state variables (see the comments): it
/// computes the storage slots of balances for EIP-2930 access lists.
contract Token {
    event Transfer(address indexed from, address indexed to, uint256 value);
    event Approval(address indexed owner, address indexed spender, uint256 value);

    /// `holder` has `available`, and `wanted` was asked of it.
    error BalanceTooLow(address holder, uint256 available, uint256 wanted);
    /// `spender` may spend `available`, and `wanted` was asked of it.
    error AllowanceTooLow(address spender, uint256 available, uint256 wanted);
    /// The zero address can neither receive tokens nor be a spender.
    error ZeroAddress();

    uint8 public constant decimals = 18;

    mapping(address => uint256) public balanceOf; // slot 0
    mapping(address => mapping(address => uint256)) public allowance; // slot 1
    uint256 public immutable totalSupply; // in the code, no slot
    string public name; // slot 2
    string public symbol; // slot 3

    constructor(string memory name_, string memory symbol_, uint256 supply) {
        name = name_;
        symbol = symbol_;
        totalSupply = supply;
        balanceOf[msg.sender] = supply;
        emit Transfer(address(0), msg.sender, supply);
    }

    function transfer(address to, uint256 value) external returns (bool) {
        move(msg.sender, to, value);
        return true;
    }

    function approve(address spender, uint256 value) external returns (bool) {
        if (spender == address(0)) revert ZeroAddress();
        allowance[msg.sender][spender] = value;
        emit Approval(msg.sender, spender, value);
        return true;
    }

    /// An allowance of the greatest number is without limit and is never reduced.
    function transferFrom(address from, address to, uint256 value) external returns (bool) {
        uint256 available = allowance[from][msg.sender];
        if (available != type(uint256).max) {
            if (available < value) revert AllowanceTooLow(msg.sender, available, value);
            unchecked {
                allowance[from][msg.sender] = available - value;
            }
        }
        move(from, to, value);
        return true;
    }

    function move(address from, address to, uint256 value) private {
        if (to == address(0)) revert ZeroAddress();
        uint256 available = balanceOf[from];
        if (available < value) revert BalanceTooLow(from, available, value);
        unchecked {
            // The first line cannot underflow: checked just above. The second cannot
            // overflow: no balance ever exceeds the supply. It reads again what the
            // first one wrote, so that a transfer to oneself changes nothing.
            balanceOf[from] = available - value;
            balanceOf[to] += value;
        }
        emit Transfer(from, to, value);
    }
}
